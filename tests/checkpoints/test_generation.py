"""generation.json and the settings that transformers' generate takes from it."""

import json
from dataclasses import replace

import pytest

from whisper2max.checkpoints.generation import SPECIAL_NAMES, chunk_seconds


def test_every_field_says_where_it_came_from(toy):
    generation = toy.generation
    assert json.loads(json.dumps(generation)) == generation
    assert set(generation["origin"]) == set(generation) - {"format_version", "origin"}
    assert set(generation["special_tokens"]) == set(SPECIAL_NAMES)
    assert generation["format_version"] == 1
    assert generation["begin_suppress_tokens"] == [220, 50256]
    assert generation["origin"]["alignment_heads"].startswith("unknown")


def test_mel_settings_follow_from_the_dimensions(toy):
    assert toy.generation["mel"] == {
        "n_mels": 80,
        "sample_rate": 16000,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_seconds": pytest.approx(0.4),
    }
    assert chunk_seconds(replace(toy.dims, n_audio_ctx=1500)) == 30


def test_transformers_generates_with_these_settings(toy):
    import torch

    config = toy.module.generation_config
    assert config.decoder_start_token_id == 50257
    assert config.suppress_tokens == toy.generation["suppress_tokens"]
    tokens = toy.module.generate(torch.zeros(1, 80, 40), max_new_tokens=4, do_sample=False)
    assert not set(tokens[0].tolist()) & set(toy.generation["suppress_tokens"]) - {50257}
