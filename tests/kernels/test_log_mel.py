"""whisper2max.log_mel against the transform written out, and against transformers."""

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, Dim, TensorType
from transformers import WhisperFeatureExtractor

from whisper2max.runtime.audio import load_audio
from whisper2max.runtime.features import SILENCE, scaled
from whisper2max.samples import SPEECH

WINDOW = 480_000
TOLERANCE = 1e-6


def longhand(samples, filters, dtype=np.float64):
    signal = np.pad(samples, 200, mode="reflect").astype(dtype)
    frames = np.stack([signal[start : start + 400] for start in range(0, samples.size - 159, 160)])
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)).astype(dtype)
    powers = np.abs(np.fft.rfft(frames * hann)) ** 2
    mel = np.log10(np.maximum(filters.astype(np.float64) @ powers.T, 1e-10))
    return (np.maximum(mel, mel.max() - 8) + 4) / 4


def of_transformers(samples, n_mels):
    return WhisperFeatureExtractor(feature_size=n_mels)._np_extract_fbank_features(samples[None], "cpu")[0]


def filters_of(n_mels):
    return np.ascontiguousarray(WhisperFeatureExtractor(feature_size=n_mels).mel_filters.T, np.float32)


def noise(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size, np.float32)


def tone_beside_quiet_noise():
    """Eight decades of power, most of them in the same frames."""
    samples = 2e-3 * noise(WINDOW)
    samples[: WINDOW // 2] += 0.9 * np.sin(2 * np.pi * 440.3 / 16000 * np.arange(WINDOW // 2)).astype(np.float32)
    return samples


def speech():
    samples = load_audio(SPEECH)
    return np.pad(samples, (0, WINDOW - samples.size))


SIGNALS = {
    "speech": speech,
    "white noise": lambda: noise(WINDOW),
    "loud tone beside quiet noise": tone_beside_quiet_noise,
    "silence": lambda: np.zeros(WINDOW, np.float32),
    "click": lambda: np.eye(1, WINDOW, 77_777, dtype=np.float32)[0],
}


def compiled(compile_graph, shape):
    cpu = DeviceRef.CPU()
    types = [TensorType(DType.float32, ["samples"], cpu), TensorType(DType.float32, ["n_mels", "n_bins"], cpu)]
    mel = TensorType(DType.float32, shape, cpu)
    model = compile_graph("log_mel", types, lambda kernel, *values: [kernel("log_mel", values, mel)])

    def run(samples, filters, scale=scaled):
        (got,) = model.execute(*(Buffer.from_numpy(each) for each in (samples, filters)))
        powers = got.to_numpy()
        return scale(powers, powers.max(initial=SILENCE))

    return run


@pytest.fixture(scope="module")
def log_mel(compile_graph):
    return compiled(compile_graph, ["n_mels", Dim("samples") // 160])


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("name", SIGNALS)
def test_window_equals_longhand_and_transformers(log_mel, name, n_mels):
    samples, filters = SIGNALS[name](), filters_of(n_mels)
    got = log_mel(samples, filters)
    assert got.shape == (n_mels, 3000)
    np.testing.assert_allclose(got, longhand(samples, filters), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(got, of_transformers(samples, n_mels), rtol=0, atol=TOLERANCE)


def test_a_float32_transform_is_not_enough():
    samples, filters = tone_beside_quiet_noise(), filters_of(80)
    single = longhand(samples, filters, dtype=np.float32)
    assert np.abs(single - longhand(samples, filters)).max() > 1e-5


@pytest.mark.parametrize("size", [1, 2, 150, 159, 160, 199, 200, 201, 400, 601, 12_345, WINDOW, 2 * WINDOW])
def test_any_length(log_mel, size):
    samples, filters = noise(size, seed=size), filters_of(80)
    got = log_mel(samples, filters)
    assert got.shape == (80, size // 160)
    if got.size:
        np.testing.assert_allclose(got, longhand(samples, filters), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("first", [2, 3, 77, 1501])
@pytest.mark.parametrize("n_frames", [1, 63, 1000])
def test_a_frame_has_the_same_bits_in_a_part_of_its_recording(log_mel, first, n_frames):
    samples, filters = tone_beside_quiet_noise(), filters_of(80)
    whole = log_mel(samples, filters, scale=lambda powers, _: powers.copy())
    part = samples[(first - 2) * 160 : (first + n_frames + 2) * 160]
    got = log_mel(part, filters, scale=lambda powers, _: powers[:, 2:-2].copy())
    np.testing.assert_array_equal(got, whole[:, first : first + n_frames])


def test_filters_need_not_be_triangles(log_mel):
    filters = np.abs(noise((7, 201)))
    filters[0] = 0
    samples = noise(16_000)
    np.testing.assert_allclose(log_mel(samples, filters), longhand(samples, filters), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25])
def test_samples_that_have_no_power_are_refused(log_mel, value):
    samples = noise(WINDOW)
    samples[123_456] = value
    with pytest.raises(Exception, match="a sample is NaN or infinite, or too large"):
        log_mel(samples, filters_of(80))


def test_filters_of_another_transform_are_refused(log_mel):
    with pytest.raises(Exception, match=r"the filters are \[80, 257\], not \[80, 201\]"):
        log_mel(noise(1600), np.ones((80, 257), np.float32))


def test_a_fixed_window_must_be_filled(compile_graph):
    log_mel = compiled(compile_graph, [80, 3000])
    samples, filters = noise(WINDOW), filters_of(80)
    np.testing.assert_allclose(log_mel(samples, filters), longhand(samples, filters), rtol=0, atol=TOLERANCE)
    with pytest.raises(Exception, match="100000 samples make 625 frames"):
        log_mel(samples[:100_000], filters)
