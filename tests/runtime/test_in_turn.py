"""Windows in turn: whatever the model says, they are cut as openai-whisper cuts them."""

import importlib

import numpy as np
import pytest
import torch
from told import GivenSpectrogram, Told
from upstream import SAME_NAME, assert_same, openai_segments

from whisper2max.runtime.hypotheses import DecodingResult
from whisper2max.runtime.in_turn import InTurn
from whisper2max.runtime.options import TranscriptionOptions
from whisper2max.runtime.windows import Heard
from whisper2max.runtime.writers import to_result


def script(rng: np.random.Generator, begin: int) -> list[int]:
    """Tokens of a window: text and timestamps in any order, as no rule would let them come."""
    kinds = rng.integers(0, 4, rng.integers(0, 12))
    times = np.sort(rng.integers(1, 1501, len(kinds)))
    tokens = [begin, 1000] if rng.random() < 0.5 else []
    for kind, time in zip(kinds, times.tolist(), strict=True):
        tokens += {0: [1000], 1: [1000, begin + time], 2: [begin + time], 3: [begin + time] * 2}[int(kind)]
    return [220 if rng.random() < 0.2 else token for token in tokens]


class ScriptedModel:
    """openai-whisper's model: whatever it hears, it says the next line of a script."""

    is_multilingual, num_languages, device = True, 99, torch.device("cpu")

    def __init__(self, dims, results: list[DecodingResult]):
        self.dims, self.results = dims, results
        self.prompts, self.windows = [], []

    def decode(self, mel, options):
        self.windows.append(mel.numpy())
        self.prompts.append(list(options.prompt))
        return self.results[len(self.prompts) - 1]


@pytest.mark.parametrize("seed", range(40))
def test_windows_equal_openai_on_any_tokens(random_multilingual, multilingual_tokenizer, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    begin = multilingual_tokenizer.special.timestamp_begin
    mel = rng.normal(size=(80, 3000 + int(rng.integers(1, 12000)))).astype(np.float32)
    results = [
        DecodingResult("en", None, script(rng, begin), "", rng.uniform(-2, 0), rng.uniform(0, 1), 0.0, 1.5)
        for _ in range(400)
    ]
    initial_prompt = rng.choice([None, "So"])
    options = {
        "language": "en",
        "condition_on_previous_text": bool(rng.integers(0, 2)),
        "no_speech_threshold": rng.choice([None, 0.6]),
        "log_prob_threshold": rng.choice([None, -1.0]),
    }
    heard = Heard(GivenSpectrogram(mel), multilingual_tokenizer, TranscriptionOptions(**options), 3000, "en")
    cutter = InTurn(heard, 448, multilingual_tokenizer.encode(" So") if initial_prompt else [])
    told = Told(lambda window: results[len(told.windows) - 1], at_once=5)
    segments = [segment for window, result in told.run(cutter) for segment in cutter.take(window, result)]
    assert set(told.under_way) == {1}, "the next window depends on what was said"

    theirs = ScriptedModel(random_multilingual.dims, results)
    # the function of the same name hides the module from a dotted path
    module = importlib.import_module("whisper.transcribe")
    monkeypatch.setattr(module, "log_mel_spectrogram", lambda *_, **__: torch.from_numpy(mel))
    options = {SAME_NAME.get(name, name): value for name, value in options.items()}
    engine = type("Engine", (), {"model": theirs})
    expected = openai_segments(engine, np.zeros(16000, np.float32), initial_prompt=initial_prompt, **options)
    assert_same(to_result(segments, "en"), expected)
    limit = random_multilingual.dims.n_text_ctx // 2 - 1
    assert [window.options.prompt[-limit:] for window in told.windows] == [each[-limit:] for each in theirs.prompts]
    assert len(told.windows) == len(theirs.windows)
    for our_window, their_window in zip(told.windows, theirs.windows, strict=True):
        np.testing.assert_array_equal(our_window.sound, their_window)


def test_windows_without_sound_are_passed_over(multilingual_tokenizer):
    recording = GivenSpectrogram(np.zeros((80, 12_000 + 3000), np.float32))
    recording.sounding[:] = False
    recording.sounding[7000:7100] = True
    heard = Heard(recording, multilingual_tokenizer, TranscriptionOptions(), 3000, "en")
    cutter = InTurn(heard, 448, [])
    assert cutter.first() == (6000, 9000)
    told = Told(lambda window: DecodingResult("en", None, [50364, 1000, 50464], "", -0.5, 0.1, 0.0, 1.5))
    segments = [segment for window, result in told.run(cutter) for segment in cutter.take(window, result)]
    assert [(window.seek, window.end) for window in told.windows] == [(6000, 9000)]
    assert [(segment.seek, segment.start, segment.end) for segment in segments] == [(6000, 60.0, 62.0)]


def test_a_window_that_was_heard_for_its_language_is_not_heard_again(multilingual_tokenizer):
    recording = GivenSpectrogram(np.zeros((80, 4000 + 3000), np.float32))
    heard = Heard(recording, multilingual_tokenizer, TranscriptionOptions(), 3000, "en", {(0, 3000): 7})
    cutter = InTurn(heard, 448, [])
    told = Told(lambda window: DecodingResult("en", None, [50364, 1000, 50464], "", -0.5, 0.1, 0.0, 1.5))
    for window, result in told.run(cutter):
        list(cutter.take(window, result))
    first, second = told.windows
    assert first.sound == 7 and second.sound.shape == (80, 3000) and heard.audios == {}
