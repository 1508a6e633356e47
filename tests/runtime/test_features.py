import numpy as np
import pytest
import whisper
from transformers import WhisperFeatureExtractor

from whisper2max.runtime.audio import load_audio
from whisper2max.runtime.features import log_mel, mel_filters, pad_or_trim

WINDOW = 480_000


def of_transformers(samples: np.ndarray, n_mels: int) -> np.ndarray:
    return WhisperFeatureExtractor(feature_size=n_mels)._np_extract_fbank_features(samples[None], "cpu")[0]


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filters_are_those_of_openai_and_transformers(n_mels):
    ours = mel_filters(n_mels)
    assert ours.dtype == np.float32 and ours.shape == (n_mels, 201)
    np.testing.assert_allclose(ours, whisper.audio.mel_filters("cpu", n_mels).numpy(), rtol=0, atol=1e-7)
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    np.testing.assert_allclose(ours, extractor.mel_filters.T, rtol=0, atol=1e-7)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_window_equals_transformers(noise, n_mels):
    window = noise[:WINDOW]
    ours = log_mel(window, n_mels)
    assert ours.dtype == np.float32 and ours.shape == (n_mels, 3000)
    np.testing.assert_allclose(ours, of_transformers(window, n_mels), rtol=0, atol=1e-6)


def test_real_speech_equals_transformers(clips):
    for name in ("en_jfk.mp3", "zh_aishell_BAC009S0724W0121.wav", "xx_whitenoise_16k_10s.flac"):
        samples = load_audio(clips[name]["path"])
        window = np.pad(samples, (0, WINDOW - samples.size))
        np.testing.assert_allclose(log_mel(window, 80), of_transformers(window, 80), rtol=0, atol=1e-6)


def test_recording_equals_openai(noise):
    ours = log_mel(noise, 80, padding=WINDOW)
    theirs = whisper.log_mel_spectrogram(noise, 80, padding=WINDOW).numpy()
    assert ours.shape == theirs.shape == (80, 10000)
    # torch's float32 transform is this far from a float64 one
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 159, 160, 200, 201, 399, 400, 401, 12345])
def test_short_recordings(size):
    samples = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    for padding in (0, 1, 200, 201, 399, 601, 3000):
        if size + padding <= 200:  # torch does not mirror a signal shorter than half a frame
            continue
        theirs = whisper.log_mel_spectrogram(samples, 80, padding=padding).numpy()
        np.testing.assert_allclose(log_mel(samples, 80, padding=padding), theirs, rtol=0, atol=1e-5)


def test_silence_is_the_floor():
    # numpy's float32 log10 differs by a unit in the last place between CPUs
    np.testing.assert_allclose(log_mel(np.zeros(1600, np.float32), 80), -1.5, rtol=3e-7)


def test_no_whole_frame():
    assert log_mel(np.zeros(100, np.float32), 80).shape == (80, 0)


def test_pad_or_trim():
    mel = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(pad_or_trim(mel, 4), mel[:, :4])
    np.testing.assert_array_equal(pad_or_trim(mel, 6), mel)
    np.testing.assert_array_equal(pad_or_trim(mel, 8), np.pad(mel, ((0, 0), (0, 2))))
    assert pad_or_trim(mel, 4).flags.c_contiguous
