"""The values to compare follow from the spec alone."""

import re

import pytest
from small_models import VARIANTS, packed_spec

from whisper2max.graph.emit import emit
from whisper2max.graph.ir import GraphSpec, Linear
from whisper2max.graph.source import load_source
from whisper2max.parity.taps import block_taps, encoder_taps, prompt_taps, step_taps

OF_A_BLOCK = [
    "attn_ln",
    "attn.query",
    "attn.key",
    "attn.value",
    "attn.qkv_attention",
    "attn.out",
    "attn.residual",
    "mlp_ln",
    "mlp.0",
    "mlp.1",
    "mlp.2",
]


def spec(variant: str) -> GraphSpec:
    dims = VARIANTS[variant]
    return packed_spec(dims, "float32")


def test_encoder_values_are_in_data_order():
    block = [f"encoder.blocks.0.{each}" for each in OF_A_BLOCK] + ["encoder.blocks.0"]
    stem = ["encoder.conv1", "encoder.conv2", "encoder.positional_embedding"]
    assert [tap.path for tap in encoder_taps(spec("english_80_mels"))] == [*stem, *block, "encoder.ln_post"]


def test_decoder_values_are_in_data_order():
    crossed = [each.replace("attn", "cross_attn") for each in OF_A_BLOCK[:7]]
    block = [f"decoder.blocks.0.{each}" for each in [*OF_A_BLOCK[:7], *crossed, *OF_A_BLOCK[7:]]] + ["decoder.blocks.0"]
    paths = [tap.path for tap in prompt_taps(spec("turbo_unequal_depth"))]
    ends = ["decoder.ln", "decoder.logits"]
    assert paths == ["decoder.token_embedding", "decoder.positional_embedding", *block, *ends]
    assert [path for path in paths if path not in {tap.path for tap in step_taps(spec("turbo_unequal_depth"))}] == [
        "decoder.blocks.0.cross_attn.key",
        "decoder.blocks.0.cross_attn.value",
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_feeds_a_value_that_is_compared(variant):
    described = spec(variant)
    modules = {tap.module for tap in (*encoder_taps(described), *prompt_taps(described)) if tap.side == "output"}
    positions = {"encoder.positional_embedding", "decoder.positional_embedding"}
    owners = {name.removesuffix(".weight").removesuffix(".bias") for name in described.parameters()}
    assert owners - modules == positions
    paths = {tap.path for tap in (*encoder_taps(described), *prompt_taps(described))}
    assert positions < paths


def test_the_generated_builders_offer_exactly_these_values(tmp_path, repository):
    described = spec("turbo_unequal_depth")
    (tmp_path / "model.py").write_text(emit(described))
    model = load_source(tmp_path / "model.py")
    expected = {
        "encoder": encoder_taps(described),
        "prompt": prompt_taps(described),
        "step": step_taps(described),
        "encoder_block": block_taps(described, "encoder"),
        "decoder_block": block_taps(described, "decoder"),
    }
    for name, taps in expected.items():
        paths = [tap.path for tap in taps]
        graph = model.BUILDERS[name](kernels=repository / "kernels", taps=paths)
        assert set(graph.values) == set(paths), name
        assert len(graph.output_types) >= len(paths) + 1


def test_a_builder_refuses_a_value_that_it_does_not_have(tmp_path, repository):
    (tmp_path / "model.py").write_text(emit(spec("english_80_mels")))
    model = load_source(tmp_path / "model.py")
    with pytest.raises(ValueError, match=re.escape("no value of graph encoder is called encoder.blocks.1")):
        model.BUILDERS["encoder"](kernels=repository / "kernels", taps=["encoder.blocks.1"])


def test_an_attention_is_tapped_before_its_output_projection():
    described = spec("english_80_mels")
    outs = [path for path, node in described.nodes.items() if isinstance(node, Linear) and path.endswith(".out")]
    taps = {tap.path: tap for tap in (*encoder_taps(described), *prompt_taps(described))}
    for out in outs:
        tap = taps[out.replace(".out", ".qkv_attention")]
        assert (tap.module, tap.side) == (out, "input")
