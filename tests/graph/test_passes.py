"""Passes keep values and leave spec and tensors in agreement."""

from dataclasses import replace

import pytest
import torch

from whisper2max.core.errors import SpecError
from whisper2max.graph import passes
from whisper2max.graph.ir import Attention, GraphSpec
from whisper2max.graph.walker import walk


def unpacked(panels, outputs):
    """Longhand of the layout: word k of output n is word k of column n % 32 of panel n // 32."""
    return torch.stack([panels[n // 32, :, n % 32].reshape(-1) for n in range(outputs)])


def test_float32_packs_and_widens_exactly(small_dims, small_module):
    walked = walk(small_module.to(torch.float16), small_dims)
    spec, tensors = passes.apply("float32", walked.spec, walked.tensors)
    assert spec.dtype == "float32"
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    filters = small_module.model.encoder.conv2.weight
    packed = unpacked(tensors["encoder.conv2.weight"], 32)
    assert packed[7, 2 * 32 + 5] == filters[7, 5, 2]
    table = small_module.model.decoder.embed_tokens.weight
    assert torch.equal(unpacked(tensors["decoder.token_embedding.weight"], len(table)), table.float())
    last = tensors["decoder.token_embedding.weight"][-1]
    assert not last[:, len(table) % 32 :].any(), "outputs that do not exist are zero"


def test_bfloat16_rounds_what_is_multiplied_and_nothing_else(small_dims, small_module):
    walked = walk(small_module, small_dims)
    spec, tensors = passes.apply("bfloat16", walked.spec, walked.tensors)
    assert {name for name, tensor in tensors.items() if tensor.dtype == torch.bfloat16} == {
        f"{path}.weight" for path, node in spec.nodes.items() if getattr(node, "packed", None)
    }
    weight = walked.tensors["encoder.blocks.0.mlp.0.weight"]
    assert torch.equal(unpacked(tensors["encoder.blocks.0.mlp.0.weight"], 128), weight.bfloat16())
    formats = {path: node.format for path, node in spec.nodes.items() if isinstance(node, Attention)}
    assert formats["encoder.blocks.0.attn"] == formats["decoder.blocks.0.cross_attn"] == "bfloat16"
    assert formats["decoder.blocks.0.attn"] == "float32"


def test_int8_rounds_to_steps_of_each_output(small_dims, small_module):
    walked = walk(small_module, small_dims)
    spec, tensors = passes.apply("int8", walked.spec, walked.tensors)
    name = "decoder.blocks.0.mlp.2"
    weight = walked.tensors[f"{name}.weight"]
    stored = unpacked(tensors[f"{name}.weight"], len(weight))
    scales = tensors[f"{name}.weight_scales"]
    assert stored.dtype == torch.int8 and int(stored.abs().max()) == 127
    assert torch.all((stored * scales[:, None] - weight).abs() <= scales[:, None] / 2 * 1.001)
    assert torch.equal(tensors[f"{name}.weight_sums"], stored.sum(1, dtype=torch.int32))
    assert spec.nodes["encoder.conv1"].packed == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plain_weights_are_rows_and_what_projects_the_same_values_is_joined(small_dims, small_module, dtype):
    walked = walk(small_module, small_dims)
    spec, tensors = passes.apply(dtype, walked.spec, walked.tensors, "max")
    rounded = {name: tensor.to(getattr(torch, dtype)) for name, tensor in walked.tensors.items()}
    attention, crossed = "decoder.blocks.1.attn", "decoder.blocks.1.cross_attn"
    parts = [rounded[f"{attention}.{child}.weight"] for child in ("query", "key", "value")]
    assert torch.equal(tensors[f"{attention}.query_key_value.weight"], torch.cat(parts))
    biases = [walked.tensors[f"{attention}.query.bias"], torch.zeros(32), walked.tensors[f"{attention}.value.bias"]]
    assert torch.equal(tensors[f"{attention}.query_key_value.bias"], torch.cat(biases))
    assert torch.equal(tensors[f"{crossed}.key_value.weight"][:32], rounded[f"{crossed}.key.weight"])
    assert torch.equal(tensors[f"{crossed}.query.weight"], rounded[f"{crossed}.query.weight"])
    assert torch.equal(tensors["encoder.conv2.weight"][7].view(3, 32)[2], rounded["encoder.conv2.weight"][7, :, 2])
    table, words = tensors["decoder.token_embedding.weight"], rounded["decoder.token_embedding.weight"]
    assert len(table) == 51_968 and torch.equal(table[: len(words)], words) and not table[len(words) :].any()
    assert tensors["decoder.positional_embedding"].dtype == tensors["encoder.ln_post.weight"].dtype == torch.float32
    assert (spec.backend, GraphSpec.parse(spec.to_text())) == ("max", spec)


def test_a_linear_whose_weight_nobody_holds_is_named(small_dims, small_module):
    walked = walk(small_module, small_dims)
    spec, _ = passes.apply("float32", walked.spec, walked.tensors, "max")
    path = "encoder.blocks.0.attn"
    with pytest.raises(SpecError, match=rf"{path}\.key: joined in one of itself and its Attention alone"):
        spec.with_nodes({path: replace(spec.nodes[path], joined=())}).validate()


def test_an_output_of_zeros_stays_zero():
    stored, scales = passes.quantize(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert stored.tolist() == [[0, 0], [64, -127]] and scales.tolist() == [0, pytest.approx(2 / 127)]


def test_inputs_that_fill_no_words_are_refused():
    with pytest.raises(SpecError, match="x: 6 inputs cannot be packed 4 to a word"):
        passes.panels(torch.zeros(32, 6, dtype=torch.int8), "x")


def test_a_pass_that_forgets_its_tensor_is_named(small_dims, small_module, monkeypatch):
    def broken(spec, tensors):
        return passes.pack_linears("float32")(spec, tensors)[0], tensors

    monkeypatch.setitem(passes.PASSES["cpu"], "float32", (passes.widen, broken))
    walked = walk(small_module, small_dims)
    with pytest.raises(SpecError, match="pass broken left tensors and nodes that disagree"):
        passes.apply("float32", walked.spec, walked.tensors)
