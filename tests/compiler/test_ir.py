"""GraphSpec: sizes, validation that lists every fault, and a text form that parses back."""

import pytest
from small_models import VARIANTS

from whisper2max.errors import SpecError
from whisper2max.ir import GraphSpec, LayerNorm, Linear, expected_nodes


def standard(dims) -> GraphSpec:
    return GraphSpec(dims, "float32", dict(expected_nodes(dims)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_text_parses_back(variant):
    spec = standard(VARIANTS[variant]).validate()
    assert GraphSpec.parse(spec.to_text()) == spec
    assert list(GraphSpec.parse(spec.to_text()).nodes) == list(spec.nodes)


def test_parameters_of_a_block(small_dims):
    shapes = standard(small_dims).parameters()
    assert shapes["encoder.conv1.weight"] == (32, 80, 3)
    assert shapes["encoder.positional_embedding"] == (1500, 32)
    assert shapes["decoder.blocks.1.cross_attn.query.bias"] == (32,)
    assert "decoder.blocks.1.cross_attn.key.bias" not in shapes
    assert shapes["decoder.token_embedding.weight"] == (51865, 32)


def test_validate_lists_every_fault(small_dims):
    spec = standard(small_dims)
    nodes = dict(spec.nodes)
    del nodes["encoder.ln_post"]
    nodes["encoder.extra"] = LayerNorm(32, 1e-5)
    nodes["decoder.blocks.0.mlp.0"] = Linear(32, 64, True)
    nodes["decoder.blocks.1.mlp_ln"] = LayerNorm(32, 1e-6)
    with pytest.raises(SpecError) as caught:
        GraphSpec(small_dims, "float33", nodes).validate()
    message = str(caught.value)
    for part in (
        "encoder.ln_post: missing",
        "encoder.extra: unexpected",
        "out_features is 64, expected 128",
        "decoder.blocks.1.mlp_ln: LayerNorm(features=32, eps=1e-06) differs from block 0",
        "float33",
    ):
        assert part in message


@pytest.mark.parametrize(
    "line",
    [
        "encoder.conv1 Conv1d()",
        "encoder.conv1 = Pool()",
        "encoder.conv1 = Linear(32, 32, True)",
        "encoder.conv1 = Linear(in_features=__import__('os'), out_features=1, bias=True)",
        "dtype = 'float32'",
    ],
)
def test_unreadable_text_names_the_line(small_dims, line):
    text = standard(small_dims).to_text()
    lines = text.count("\n")
    with pytest.raises(SpecError, match=f"line {lines + 1} "):
        GraphSpec.parse(text + line + "\n")


def test_replacing_an_unknown_node(small_dims):
    with pytest.raises(SpecError, match="decoder.nothing"):
        standard(small_dims).with_nodes({"decoder.nothing": LayerNorm(32, 1e-5)})
