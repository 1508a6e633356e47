import numpy as np
import pytest

from whisper2max.core.errors import AudioError
from whisper2max.runtime import recording
from whisper2max.runtime.audio import Sound
from whisper2max.runtime.features import SILENCE, log_mel, log_mel_powers
from whisper2max.runtime.recording import Recording, frames_that_hear

N_FRAMES = 3000


class Features:
    """The part of an engine that a recording needs, in numpy."""

    class dims:
        n_mels = 80

    def __init__(self):
        self.n_samples = 0

    def features(self, samples, padding=0):
        self.n_samples += samples.size
        return log_mel_powers(samples, 80, padding)


def sound(samples: np.ndarray, piece: int = 1024) -> Sound:
    """The samples in pieces as a decoder gives them."""
    return Sound("sound.wav", lambda: (samples[at : at + piece] for at in range(0, samples.size, piece)))


def whole(samples: np.ndarray) -> np.ndarray:
    """openai-whisper's spectrogram, 30 s of silence after the end included."""
    return log_mel(samples, 80, padding=480_000)


@pytest.fixture(params=["kept", "read twice"])
def short_blocks(monkeypatch, request):
    monkeypatch.setattr(recording, "BLOCK_FRAMES", 700)
    monkeypatch.setattr(recording, "KEPT_SECONDS", 1000 if request.param == "kept" else 0)


@pytest.mark.parametrize("n_samples", [1, 159, 160, 199, 201, 16_000, 112_000, 112_640, 640_159])
def test_windows_are_those_of_the_whole(short_blocks, noise, n_samples):
    samples = noise[:n_samples]
    expected, heard = whole(samples), Recording(sound(samples), Features())
    assert (heard.n_samples, heard.n_frames, heard.duration) == (n_samples, n_samples // 160, n_samples / 16000)
    assert heard.loudness.shape == heard.sounding.shape == (heard.n_frames,)
    for first in range(0, heard.n_frames, 900):
        heard.forget(first)
        end = min(first + N_FRAMES, heard.n_frames)
        window = heard.window(first, end, N_FRAMES)
        np.testing.assert_allclose(window[:, : end - first], expected[:, first:end], rtol=0, atol=1e-6)
        assert not window[:, end - first :].any()
        in_silence = heard.window_in_silence(first, N_FRAMES)
        np.testing.assert_allclose(in_silence, expected[:, first : first + N_FRAMES], rtol=0, atol=1e-6)


def test_no_frame_after_those_that_hear_hears_anything():
    missed = 0
    for n_samples in range(1000, 1170):
        powers = log_mel_powers(np.ones(n_samples, np.float32), 80, padding=480_000).max(axis=0)
        assert powers[frames_that_hear(n_samples) :].max() < SILENCE + 1e-5
        missed += powers[frames_that_hear(n_samples) - 1] < SILENCE + 1e-5
    # a window's first sample weighs nothing
    assert missed < 10


def test_a_long_recording_lies_in_memory_in_parts(monkeypatch, noise):
    monkeypatch.setattr(recording, "BLOCK_FRAMES", 500)
    monkeypatch.setattr(recording, "KEPT_SECONDS", 20)
    engine = Features()
    heard = Recording(sound(noise), engine)
    read_once = engine.n_samples
    widest = 0
    for first in range(0, heard.n_frames - 1000, 250):
        heard.forget(first)
        heard.window(first, first + 1000, N_FRAMES)
        widest = max(widest, heard._powers.shape[1])
    assert widest < 1000 + 2 * 500 + 250
    assert read_once < engine.n_samples <= 2 * read_once, "a second pass, and no third"


def test_a_short_recording_is_read_once(noise):
    engine = Features()
    heard = Recording(sound(noise), engine)
    read_once = engine.n_samples
    heard.window(0, 3000, N_FRAMES)
    assert engine.n_samples == read_once


def test_the_loudest_decides_the_floor_of_the_first_window(monkeypatch, noise):
    monkeypatch.setattr(recording, "KEPT_SECONDS", 0)
    samples = np.concatenate([1e-4 * noise[:640_000], noise[:160_000]])
    heard = Recording(sound(samples), Features())
    alone = Recording(sound(samples[:480_000]), Features())
    assert heard.loudest > alone.loudest + 6
    np.testing.assert_allclose(heard.window(0, 3000, N_FRAMES), whole(samples)[:, :3000], rtol=0, atol=1e-6)
    assert np.abs(heard.window(0, 3000, N_FRAMES) - alone.window(0, 3000, N_FRAMES)).max() > 0.5


def test_what_is_shorter_when_it_is_read_again_is_refused(monkeypatch, noise):
    monkeypatch.setattr(recording, "KEPT_SECONDS", 0)
    lengths = iter([640_000, 100_000])
    heard = Recording(Sound("shrinking.wav", lambda: iter([noise[: next(lengths)]])), Features())
    with pytest.raises(AudioError, match="shrinking.wav gave 40 s .* keep it unchanged"):
        heard.window(0, 3000, N_FRAMES)


def test_digital_silence_is_found(noise):
    samples = noise[: 30 * 16000].copy()
    samples[10 * 16000 : 20 * 16000] = 0
    heard = Recording(sound(samples), Features())
    assert heard.has_sound(0, 1000) and heard.has_sound(990, 1010) and not heard.has_sound(1000, 2000)
