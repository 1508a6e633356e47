"""GraphSpec: sizes, validation that lists every fault, and a text form that parses back."""

from dataclasses import replace

import pytest
import torch
from small_models import VARIANTS, packed_spec

from whisper2max.core.errors import SpecError
from whisper2max.graph import passes
from whisper2max.graph.ir import DTYPES, GraphSpec, LayerNorm, Linear, expected_nodes


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


def test_what_is_stored_of_a_packed_network(small_dims):
    spec = packed_spec(small_dims, "int8")
    stored = spec.stored()
    assert stored["encoder.conv1.weight"] == ("bfloat16", (1, 120, 32, 2))
    assert stored["encoder.blocks.0.attn.query.weight"] == ("int8", (1, 8, 32, 4))
    assert stored["encoder.blocks.0.attn.query.weight_scales"] == ("float32", (32,))
    assert stored["encoder.blocks.0.attn.query.weight_sums"] == ("int32", (32,))
    assert stored["encoder.blocks.0.attn.query.bias"] == stored["decoder.ln.weight"] == ("float32", (32,))
    assert {name: shape for name, (_, shape) in stored.items()} == spec.parameters()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_stored_is_what_the_passes_make(small_dims, dtype):
    spec = standard(small_dims)
    tensors = {name: torch.zeros(shape) for name, shape in spec.parameters().items()}
    packed, tensors = passes.apply(dtype, spec, tensors)
    made = {name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in tensors.items()}
    assert packed.stored() == made


@pytest.mark.parametrize(
    ("path", "changes", "fault"),
    [
        ("encoder.conv1", {"packed": "evil"}, "encoder.conv1: packed is 'evil'"),
        ("encoder.conv1", {"packed": []}, r"encoder.conv1: packed is \[\]"),
        ("decoder.ln", {"eps": "x" * 1000}, "decoder.ln: eps is 'x{70,80}"),
        ("decoder.ln", {"eps": 1}, "decoder.ln: eps is 1"),
        ("encoder.blocks.0.attn", {"format": None}, "encoder.blocks.0.attn: format is None"),
        ("encoder.blocks.0.attn.key", {"bias": 0}, "encoder.blocks.0.attn.key: bias is 0"),
        ("encoder.blocks.0.mlp.1", {"approximate": 3}, "encoder.blocks.0.mlp.1: approximate is 3"),
    ],
)
def test_attributes_that_no_checkpoint_has(small_dims, path, changes, fault):
    spec = standard(small_dims)
    with pytest.raises(SpecError, match=fault):
        spec.with_nodes({path: replace(spec.nodes[path], **changes)}).validate()


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
        "encoder.conv1 = 'float32'",
        "encoder.conv1 = ModelDimensions(n_mels=80)",
        "encoder.conv1 = " + "-" * 900 + "1",
        "encoder.conv1 = " + "(" * 400 + ")" * 400,
        "encoder.conv1 = LayerNorm(features=" + "9" * 5000 + ", eps=1e-5)",
        "encoder.conv1 = LayerNorm(**{'features': 3})",
        "encoder.conv1 = \0",
    ],
)
def test_unreadable_text_names_the_line(small_dims, line):
    text = standard(small_dims).to_text()
    lines = text.count("\n")
    with pytest.raises(SpecError, match=f"line {lines + 1} "):
        GraphSpec.parse(text + line + "\n")


@pytest.mark.parametrize("text", ["", "dims = 3", "dtype = 3", "dims = 'float32'"])
def test_text_without_dimensions_and_dtype(text):
    with pytest.raises(SpecError, match="cannot be read|does not say"):
        GraphSpec.parse(text)


def test_replacing_an_unknown_node(small_dims):
    with pytest.raises(SpecError, match="decoder.nothing"):
        standard(small_dims).with_nodes({"decoder.nothing": LayerNorm(32, 1e-5)})
