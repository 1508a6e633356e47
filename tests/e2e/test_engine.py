"""The compiled graphs as decoding uses them: windows, slots and rows at random in every dtype; features in parts."""

from functools import cache

import numpy as np
import pytest
from schedules import Schedules, reordered

import whisper2max
from whisper2max.graph.passes import PASSES
from whisper2max.parity.tolerances import EPSILONS, TOLERANCES
from whisper2max.runtime import recording
from whisper2max.runtime.audio import Sound, load_audio
from whisper2max.runtime.features import log_mel
from whisper2max.runtime.model import Model
from whisper2max.runtime.recording import Recording
from whisper2max.samples import SPEECH


@pytest.fixture(scope="module")
def load(small_converted):
    """Loads the small artifact of a dtype, once."""

    @cache
    def loaded(dtype: str) -> Model:
        return whisper2max.load(small_converted(dtype).path)

    return loaded


@pytest.mark.parametrize(
    ("dtype", "seeds"),
    [
        *((dtype, range(20)) for dtype in PASSES["cpu"]),
        pytest.param("float32", range(20, 200), marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]} to {value[-1]}",
)
def test_no_window_notices_the_others(load, dtype, seeds):
    model = load(dtype)
    schedules = Schedules(model.engine, model.tokenizer)
    lengths = set()
    for seed in seeds:
        for result, alone in schedules.results(seed):
            assert result.tokens == alone.tokens and result.language == alone.language
            for name in ("avg_logprob", "no_speech_prob"):
                assert getattr(result, name) == pytest.approx(getattr(alone, name), abs=1e-5)
            lengths.add(len(result.tokens))
    assert len(lengths) > 5


@pytest.mark.parametrize("dtype", PASSES["cpu"])
def test_reordered_rows_give_the_logits_of_texts_decoded_alone(load, dtype):
    """To the rounding of sums in float32, and where a value is rounded to a narrow dtype after them, to its step."""
    model = load(dtype)
    limit = TOLERANCES[dtype].limits(0, 0, one_position=True)["max_abs"] if dtype == "float32" else EPSILONS[dtype]
    compared, worst = 0, 0.0
    for got, alone in reordered(model.engine, model.tokenizer, seed=0):
        worst = max(worst, np.abs(got - alone).max() / np.abs(alone).max())
        compared += 1
    print(f"{dtype}: {worst:.1e} of the largest logit, of {limit:.1e}")
    assert worst <= limit
    assert compared > 400


@pytest.mark.parametrize("padding", [2, 159, 200, 601, 799, 800, 801, 3000, 480_000])
@pytest.mark.parametrize("size", [0, 1, 2, 150, 159, 160, 199, 200, 201, 400, 12_345, 480_000])
def test_any_length_and_padding(load, size, padding):
    samples = np.random.default_rng(size).standard_normal(size, np.float32)
    got = load("float32").engine.log_mel(samples, padding)
    np.testing.assert_allclose(got, log_mel(samples, got.shape[0], padding), rtol=0, atol=1e-6)


@pytest.mark.parametrize("block_frames", [137, 600, 6000])
def test_a_spectrogram_in_parts(load, monkeypatch, block_frames):
    samples = load_audio(SPEECH)
    engine = load("float32").engine
    whole = engine.log_mel(samples, padding=480_000)
    monkeypatch.setattr(recording, "KEPT_SECONDS", 0)
    monkeypatch.setattr(recording, "BLOCK_FRAMES", block_frames)
    pieces = [samples[at : at + 1000] for at in range(0, samples.size, 1000)]
    heard = Recording(Sound("speech.flac", lambda: iter(pieces)), engine)
    np.testing.assert_array_equal(heard.window_in_silence(0, 3000), whole[:, :3000])
    n_frames = heard.n_frames
    np.testing.assert_array_equal(heard.window(0, n_frames, 3000)[:, :n_frames], whole[:, :n_frames])
