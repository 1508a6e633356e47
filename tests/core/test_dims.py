"""Dimensions that no Whisper has are refused by name."""

import pytest
from small_models import VARIANTS

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import CheckpointError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_vocab": 0}, "n_vocab is 0"),
        ({"n_mels": 80.0}, "n_mels is 80.0"),
        ({"n_text_layer": True}, "n_text_layer is True"),
        ({"n_mels": "80" * 1000}, "n_mels is '8080.{30,40}; every"),
        ({"n_audio_layer": 1025}, "n_audio_layer is above 1024"),
        ({"n_vocab": 10**12}, "n_vocab is above 1048576"),
        ({"n_text_ctx": 10**400}, "n_text_ctx is above 65536"),
        ({"n_audio_head": 3}, "not a multiple of n_audio_head 3"),
        ({"n_text_state": 64}, "differs from n_text_state 64"),
    ],
)
def test_impossible_dimensions(change, message):
    with pytest.raises(CheckpointError, match=message):
        ModelDimensions(**{**VARIANTS["multilingual_80_mels"].to_dict(), **change})


def test_frames_of_a_window():
    assert {dims.n_frames for dims in VARIANTS.values()} == {3000}
