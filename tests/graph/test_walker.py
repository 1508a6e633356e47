"""The walk of a live module: both families give one spec, and every tensor is claimed exactly once."""

import pytest
import torch
from small_models import VARIANTS, openai_module, transformers_module

from whisper2max.core.errors import SpecError
from whisper2max.graph.walker import walk


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_families_give_the_same_spec(variant):
    dims = VARIANTS[variant]
    ours, theirs = walk(transformers_module(dims), dims), walk(openai_module(dims), dims)
    assert ours.spec == theirs.spec
    assert list(ours.tensors) == list(theirs.tensors) == list(ours.spec.parameters())


def test_tensors_are_the_modules_own(small_dims, small_module):
    walked = walk(small_module, small_dims)
    query = small_module.model.decoder.layers[1].encoder_attn.q_proj.weight
    assert walked.tensors["decoder.blocks.1.cross_attn.query.weight"].data_ptr() == query.data_ptr()
    assert walked.source_paths["decoder.blocks.1.cross_attn.query"] == "model.decoder.layers.1.encoder_attn.q_proj"
    assert walked.source_paths["encoder.ln_post"] == "model.encoder.layer_norm"


def test_unclaimed_missing_and_untied_are_listed_together(small_dims, small_module):
    small_module.model.encoder.register_buffer("extra", torch.zeros(1))
    small_module.model.decoder.layers[0].fc1.register_parameter("scale", torch.nn.Parameter(torch.ones(1)))
    small_module.model.encoder.layers[1].fc2.bias = None
    small_module.proj_out.weight = torch.nn.Parameter(torch.zeros(51865, 32))
    with pytest.raises(SpecError) as caught:
        walk(small_module, small_dims)
    message = str(caught.value)
    for part in (
        "model.encoder.extra: claimed by no converter",
        "model.decoder.layers.0.fc1.scale: claimed by no converter",
        "proj_out.weight: differs from decoder.token_embedding.weight",
    ):
        assert part in message


def test_a_bias_that_is_gone_makes_blocks_uneven(small_dims, small_module):
    small_module.model.encoder.layers[1].fc2.bias = None
    with pytest.raises(SpecError, match=r"encoder.blocks.1.mlp.2.*differs from block 0"):
        walk(small_module, small_dims)


def test_doubly_claimed_tensor(small_dims, small_module, monkeypatch):
    from whisper2max.graph.converters import registry

    original = registry._CONVERTERS["torch.nn.modules.normalization.LayerNorm"]

    def greedy(state, module, path, source):
        original(state, module, path, source)
        state.claim(f"{path}.weight", f"{source}.weight", module.weight)

    monkeypatch.setitem(registry._CONVERTERS, "torch.nn.modules.normalization.LayerNorm", greedy)
    with pytest.raises(SpecError, match=r"model.encoder.layer_norm.weight: claimed 2 times"):
        walk(small_module, small_dims)


def test_epsilon_of_a_single_norm(small_dims, small_module):
    small_module.model.decoder.layers[1].encoder_attn_layer_norm.eps = 1e-6
    with pytest.raises(SpecError, match=r"decoder.blocks.1.cross_attn_ln.*differs from block 0"):
        walk(small_module, small_dims)


def test_a_subclass_is_refused_by_name(small_dims, small_module):
    class Adapted(torch.nn.Linear):
        pass

    small_module.model.decoder.layers[0].self_attn.q_proj = Adapted(32, 32)
    with pytest.raises(
        SpecError, match=r"model.decoder.layers.0.self_attn.q_proj is a .*Adapted, which has no converter"
    ):
        walk(small_module, small_dims)


def test_dimensions_of_another_model(small_dims, small_module):
    other = VARIANTS["turbo_unequal_depth"]
    with pytest.raises(SpecError, match="encoder.conv1"):
        walk(small_module, other)
