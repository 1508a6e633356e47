import numpy as np
import pytest

from whisper2max.core.errors import AudioError
from whisper2max.parity import inputs
from whisper2max.runtime.audio import load_audio
from whisper2max.samples import SPEECH


def test_the_sample_is_the_default():
    ((name, samples),) = inputs.load_inputs([])
    assert name == SPEECH.name
    np.testing.assert_array_equal(samples, load_audio(SPEECH))


def test_of_a_long_recording_only_the_beginning_is_read(monkeypatch):
    monkeypatch.setattr(inputs, "MOST_SECONDS", 2)
    ((_, samples),) = inputs.load_inputs([SPEECH])
    assert 32_000 <= samples.size < load_audio(SPEECH).size
    np.testing.assert_array_equal(samples, load_audio(SPEECH)[: samples.size])


def test_what_is_no_sound_is_refused(tmp_path):
    with pytest.raises(AudioError, match="nowhere.wav does not exist"):
        inputs.load_inputs([tmp_path / "nowhere.wav"])
