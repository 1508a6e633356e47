"""The registry, and the attributes that the converters check because the graph does not carry them."""

import pytest
import torch

from whisper2max.core.errors import SpecError
from whisper2max.graph.converters import converts, registered_names
from whisper2max.graph.walker import walk


def test_a_second_converter_for_a_class_raises():
    with pytest.raises(SpecError, match="torch.nn.modules.linear.Linear has two converters"):
        converts("torch.nn.modules.linear.Linear")(lambda *arguments: None)


def test_every_class_of_both_families_is_registered():
    names = registered_names()
    assert "whisper.model.Whisper" in names
    assert "transformers.models.whisper.modeling_whisper.WhisperForConditionalGeneration" in names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda module: setattr(module.model.encoder.conv1, "padding_mode", "reflect"), "padding_mode is 'reflect'"),
        (lambda module: setattr(module.model.encoder.conv2, "stride", (1,)), "stride is 1, expected 2"),
        (lambda module: setattr(module.config, "scale_embedding", True), "scale_embedding is True"),
        (lambda module: setattr(module.model.encoder.layers[0].self_attn, "scaling", 0.5), "scale is 0.5"),
        (lambda module: setattr(module.model.decoder.layers[0].self_attn, "is_causal", False), "is_causal is False"),
        (
            lambda module: setattr(module.model.encoder.layers[0], "activation_fn", torch.nn.ReLU()),
            "torch.nn.modules.activation.ReLU, which has no converter",
        ),
    ],
)
def test_a_module_that_computes_something_else_is_refused(small_dims, small_module, change, message):
    change(small_module)
    with pytest.raises(SpecError, match=message):
        walk(small_module, small_dims)
