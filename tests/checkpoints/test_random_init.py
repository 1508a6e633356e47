"""Random weights: determinism, scale, and the dimensions of the largest models."""

from dataclasses import replace

import pytest
import torch

from whisper2max.checkpoints import SIZES, random_checkpoint
from whisper2max.checkpoints.random_init import random_tensors, sinusoids
from whisper2max.core.errors import TokenizerError, UsageError


def test_a_seed_names_one_model(toy):
    first, again, other = (
        random_tensors(toy.dims, 0),
        random_tensors(toy.dims, 0),
        random_tensors(toy.dims, 1),
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert differing == set(first) - {"encoder.positional_embedding"}
    assert toy.source["format"] == "random"
    assert toy.source["name"] == "random-init, seed 0"


def test_a_tensor_does_not_depend_on_the_others(toy):
    deeper = replace(toy.dims, n_audio_layer=5)
    name = "encoder.blocks.0.attn.value.weight"
    assert torch.equal(random_tensors(toy.dims, 3)[name], random_tensors(deeper, 3)[name])


def test_the_numbers_are_pinned(toy):
    """The same on every machine: a changed generator would make recorded results meaningless."""
    weights = random_tensors(toy.dims, 0)["decoder.ln.weight"]
    assert weights[:3].tolist() == pytest.approx([0.8698238, 0.9954280, 0.8803815], abs=1e-6)


def test_encoder_positions_are_openai_whispers():
    upstream = pytest.importorskip("whisper.model")
    assert torch.allclose(sinusoids(1500, 384), upstream.sinusoids(1500, 384), atol=2e-4)


def test_activations_stay_of_order_one_through_many_blocks(toy):
    dims = replace(
        toy.dims, n_audio_state=64, n_text_state=64, n_audio_layer=32, n_text_layer=32, n_audio_ctx=100
    )
    module = random_checkpoint(dims, seed=0).module
    mel = torch.randn(1, 80, 200, generator=torch.Generator().manual_seed(0)) * 0.4
    tokens = torch.tensor([[50257, 50362, 1, 2]])
    with torch.no_grad():
        output = module(input_features=mel, decoder_input_ids=tokens, output_hidden_states=True)
    for states in (*output.encoder_hidden_states[1:], *output.decoder_hidden_states[1:]):
        assert 0.05 < states.std() < 3
        assert states.abs().max() < 30
    assert output.logits.std() > 0.2


def test_large_v3_has_its_tokenizer_and_languages():
    dims = replace(SIZES["large-v3"].dims, n_audio_ctx=20, n_audio_state=20, n_text_state=20, n_audio_layer=1)
    checkpoint = random_checkpoint(replace(dims, n_text_layer=1), seed=1)
    assert checkpoint.dims.n_vocab == 51866
    assert list(checkpoint.generation["languages"])[-1] == "yue"
    assert checkpoint.generation["special_tokens"]["timestamp_begin"] == 50365
    assert checkpoint.module.generation_config.no_timestamps_token_id == 50364


def test_unknown_sizes_and_vocabularies_are_refused(toy):
    with pytest.raises(UsageError, match="no size 'huge'.*tiny, tiny.en"):
        random_checkpoint("huge", 0)
    with pytest.raises(TokenizerError, match="50000 tokens is installed"):
        random_checkpoint(replace(toy.dims, n_vocab=50000), 0)
