"""Canonical names against both upstream modules."""

import pytest

from whisper2max.checkpoints.assemble import build_empty
from whisper2max.checkpoints.names import tensor_shapes, transformers_name


def test_names_and_shapes_are_those_of_transformers(toy):
    theirs = {name: tuple(tensor.shape) for name, tensor in build_empty(toy.dims).state_dict().items()}
    del theirs["proj_out.weight"]
    assert {transformers_name(name): shape for name, shape in tensor_shapes(toy.dims).items()} == theirs


def test_names_and_shapes_are_those_of_openai_whisper(toy):
    model = pytest.importorskip("whisper.model")
    module = model.Whisper(model.ModelDimensions(**toy.dims.to_dict()))
    theirs = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert tensor_shapes(toy.dims) == theirs


def test_a_name_of_no_whisper_is_a_key_error():
    with pytest.raises(KeyError):
        transformers_name("head.weight")
