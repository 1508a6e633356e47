import json
import math
from dataclasses import replace

import pytest

from whisper2max.parity.figures import Row
from whisper2max.parity.report import (
    Findings,
    ParityReport,
    SameBits,
    TokenRow,
    WeightAudit,
    WeightDifference,
    data_order,
    kind_of,
)

ROW = Row(
    path="encoder.conv1.gelu",
    source_path="model.encoder.conv1",
    build="tapped",
    graph="encoder",
    input="a.wav",
    case=None,
    row=None,
    position=None,
    kernel="conv1d",
    inside=("encoder.conv1",),
    shape=(1, 3000, 32),
    max_abs=1e-6,
    rel_rmse=1e-7,
    ref_max_abs=3.0,
    ref_min=-3.0,
    ref_max=2.0,
    torch_max_abs=1e-6,
    torch_rel_rmse=1e-7,
    variance=None,
    cosine=1.0,
    kl=None,
    worst=(0, 7, 5),
    tolerance={"max_abs": 4e-5, "rel_rmse": 1e-6},
    passed=True,
)
PATHS = [
    "log_mel",
    "encoder.conv1.gelu",
    "encoder.blocks.0.attn_ln",
    "encoder.blocks.0.attn.query",
    "encoder.ln_post",
    "decoder.ln",
]
TOKENS = TokenRow("a.wav", "free", 5, 5, None)


def row(path, **changes):
    failed = {"max_abs": 1e-3, "passed": False} if changes.pop("fails", False) else {}
    return replace(ROW, path=path, **failed, **changes)


def report(*rows, tokens=(TOKENS,), weights=None, same_bits=()):
    found = Findings(data_order(rows, PATHS), tokens, same_bits, ())
    return ParityReport("float32", "judge", "witness", found, weights, {}, {})


def test_passes_when_everything_does():
    found = report(*(row(path) for path in PATHS[1:]), weights=WeightAudit(3, 40, ()))
    assert found.passed and found.first_divergent is None
    assert found.explanation() == "everything is within tolerance."


@pytest.mark.parametrize(
    "found",
    [
        report(),
        report(ROW, tokens=()),
        report(ROW, tokens=(replace(TOKENS, compared=0, equal=0),)),
        report(ROW, weights=WeightAudit(0, 0, ())),
    ],
    ids=["no rows", "no token rows", "no tokens", "no weights"],
)
def test_a_comparison_of_nothing_fails(found):
    assert not found.passed
    assert found.explanation() == "nothing was compared."


def test_the_first_divergent_row_is_first_in_data_order_whatever_the_input():
    late, early = (row(path, fails=True) for path in ("encoder.ln_post", "encoder.blocks.0.attn.query"))
    found = report(late, replace(early, input="b.wav"), row("encoder.conv1.gelu"))
    assert found.first_divergent.path == "encoder.blocks.0.attn.query" and found.first_divergent.input == "b.wav"


def test_tapped_rows_come_before_isolated_and_shipped_ones():
    builds = [row("encoder.ln_post", build=build) for build in ("shipped", "isolated", "tapped")]
    mel = row("log_mel", build="shipped", graph="features")
    alone = [row("decoder.ln", graph="step", case="1 row", position=position) for position in (447, 4)]
    several = [
        row("decoder.ln", graph="step", case="3 rows, reordered", row=number, position=position)
        for number, position in ((1, 4), (0, 447))
    ]
    extend = row("decoder.ln", graph="extend", case="1 row", position=0)
    ordered = data_order([*builds, *several, *alone, mel, extend], PATHS)
    assert [(each.path, each.build, each.place.words) for each in ordered] == [
        ("log_mel", "shipped", "features"),
        ("encoder.ln_post", "tapped", "encoder"),
        ("decoder.ln", "tapped", "extend of 1 row at 0"),
        ("decoder.ln", "tapped", "step of 1 row at 4"),
        ("decoder.ln", "tapped", "step of 1 row at 447"),
        ("decoder.ln", "tapped", "step of 3 rows, reordered, row 0 at 447"),
        ("decoder.ln", "tapped", "step of 3 rows, reordered, row 1 at 4"),
        ("encoder.ln_post", "isolated", "encoder"),
        ("encoder.ln_post", "shipped", "encoder"),
    ]


def test_the_explanation_names_the_layer_the_growth_and_the_inputs():
    rows = [row(path, fails=path in PATHS[3:]) for path in PATHS[1:]]
    said = report(*rows).explanation()
    assert said.startswith("encoder.blocks.0.attn.query (model.encoder.conv1) is the first that diverges from judge")
    assert "in the tapped encoder on a.wav, computed by conv1d, which has encoder.conv1 inside: max-abs 1.0" in said
    assert "max-abs 1.00e-03 of the reference's largest value (limit 4.00e-05)" in said
    along = "encoder.conv1.gelu 0.1, encoder.blocks.0.attn_ln 0.1, encoder.blocks.0.attn.query 25, encoder.ln_post 25"
    assert along in said
    assert said.endswith("Its inputs were good.")


def test_the_explanation_of_the_very_first_row_speaks_of_no_inputs():
    assert "inputs" not in report(row("encoder.conv1.gelu", fails=True), row("encoder.ln_post")).explanation()


def test_wrong_weights_and_tokens_are_explained():
    difference = WeightDifference("decoder.ln.bias", "model.decoder.layer_norm.bias", 2, (7,), 0.5, 0.25)
    tokens = TokenRow("a.wav", "step", 5, 3, 2)
    found = report(ROW, tokens=(tokens,), weights=WeightAudit(3, 40, (difference,)))
    assert not found.passed
    said = found.explanation()
    assert "not the checkpoint: decoder.ln.bias (2 values differ, first at [7]: 0.5, the checkpoint gives 0.25)" in said
    assert "Tokens differ from torch's on a.wav (step): 3 of 5 equal, first at index 2." in said


def test_a_shipped_graph_that_gives_other_bits_fails_and_is_named():
    same = SameBits("a.wav", "encoder", 100, 0)
    assert report(ROW, same_bits=(same,)).passed
    other = replace(same, place="step of 1 row at 224", different=3)
    found = report(ROW, same_bits=(same, other))
    assert not found.passed and found.first_divergent is None
    expected = "The shipped step of 1 row at 224 is not the graph whose values were compared: 3 of its 100 results on"
    assert found.explanation() == f"{expected} a.wav differ."
    assert found.to_dict()["same_bits"][1]["different"] == 3


@pytest.mark.parametrize(
    ("dtype", "kind", "compared", "equal", "agrees"),
    [
        ("float32", "step", 60, 59, False),
        ("int8", "step", 60, 54, True),
        ("int8", "step", 60, 53, False),
        ("int8", "step", 5, 4, True),
        ("int8", "step", 5, 3, False),
        ("int8", "free", 60, 1, True),
    ],
)
def test_how_many_tokens_must_be_equal(dtype, kind, compared, equal, agrees):
    tokens = TokenRow("a.wav", kind, compared, equal, equal if equal < compared else None)
    assert replace(report(ROW), dtype=dtype).agrees(tokens) == agrees


def test_parity_json_has_no_infinity():
    broken = row("encoder.conv1.gelu", max_abs=math.inf, rel_rmse=math.inf, cosine=math.nan, passed=False)
    text = json.dumps(report(broken).to_dict(), allow_nan=False)
    (layer,) = json.loads(text)["layers"]
    assert layer["max_abs"] is None and layer["cosine"] is None and not layer["passed"]


def test_the_fraction_of_a_limit_is_the_larger_of_both_figures():
    assert row("encoder.conv1.gelu").of_limit == pytest.approx(0.1)
    assert row("encoder.conv1.gelu", max_abs=2e-5).of_limit == pytest.approx(0.5)
    assert replace(ROW, tolerance={"max_abs": 1e-5, "rel_rmse": None}).of_limit == pytest.approx(0.1)


def test_kinds_of_values():
    assert kind_of("encoder.blocks.3.attn.query") == "encoder attn.query"
    assert kind_of("decoder.blocks.0") == "decoder block"
    assert kind_of("decoder.logits") == "decoder logits"
    assert kind_of("log_mel") == "log_mel"
