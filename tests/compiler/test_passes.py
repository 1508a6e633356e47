"""Passes keep values and leave spec and tensors in agreement."""

import pytest
import torch

from whisper2max import passes
from whisper2max.errors import SpecError
from whisper2max.walker import walk


def test_float32_packs_filters_and_widens_exactly(small_dims, small_module):
    walked = walk(small_module.to(torch.float16), small_dims)
    spec, tensors = passes.apply("float32", walked.spec, walked.tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert spec.nodes["encoder.conv1"].layout == "1kio"
    packed, original = tensors["encoder.conv2.weight"], small_module.model.encoder.conv2.weight
    assert packed.shape == (1, 3, 32, 32)
    assert packed[0, 2, 5, 7] == original[7, 5, 2]
    embedding = "decoder.token_embedding.weight"
    assert torch.equal(tensors[embedding], small_module.model.decoder.embed_tokens.weight.float())


def test_a_pass_that_forgets_its_tensor_is_named(small_dims, small_module, monkeypatch):
    def broken(spec, tensors):
        return passes.pack_convolutions(spec, tensors)[0], tensors

    monkeypatch.setitem(passes.PASSES, "float32", (passes.widen, broken))
    walked = walk(small_module, small_dims)
    with pytest.raises(SpecError, match="pass broken left tensors and nodes that disagree"):
        passes.apply("float32", walked.spec, walked.tensors)
