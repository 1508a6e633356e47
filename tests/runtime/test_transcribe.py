import importlib
import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from upstream import openai_segments

from whisper2max.core.errors import UsageError
from whisper2max.runtime.audio import Sound, load_audio
from whisper2max.runtime.decoding import DecodingOptions, DecodingResult, decode, detect_language
from whisper2max.runtime.features import log_mel, log_mel_powers, pad_or_trim
from whisper2max.runtime.pauses import cut_at_pauses
from whisper2max.runtime.recording import DIGITAL_SILENCE, Recording
from whisper2max.runtime.segments import slices
from whisper2max.runtime.transcribe import transcribe
from whisper2max.runtime.writers import to_result

SAME_NAME = {"log_prob_threshold": "logprob_threshold"}
EXACT = ("id", "seek", "start", "end", "text", "tokens", "temperature", "compression_ratio")


def run(engine, tokenizer, samples: np.ndarray, **options) -> dict:
    segments, info = transcribe(engine, tokenizer, samples, **options)
    return to_result(segments, info.language)


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours["language"] == theirs["language"]
    assert [{name: row[name] for name in EXACT} for row in ours["segments"]] == [
        {name: row[name] for name in EXACT} for row in theirs["segments"]
    ]
    for our_row, their_row in zip(ours["segments"], theirs["segments"], strict=True):
        assert list(our_row) == list(their_row)
        assert our_row["avg_logprob"] == pytest.approx(their_row["avg_logprob"], abs=1e-4)
        assert our_row["no_speech_prob"] == pytest.approx(their_row["no_speech_prob"], abs=1e-4)


def assert_equals_openai(engine, tokenizer, samples, **options) -> tuple[dict, dict]:
    ours = run(engine, tokenizer, samples, **options)
    options = {SAME_NAME.get(name, name): value for name, value in options.items()}
    if "suppress_tokens" in options:
        options["suppress_tokens"] = list(options["suppress_tokens"])
    theirs = openai_segments(engine, samples, **options)
    assert_same(ours, theirs)
    return ours, theirs


# random models often hear no speech, and no window should be left out for it
SPEAKING = {"no_speech_threshold": None}


@pytest.mark.parametrize(
    "options",
    [
        SPEAKING,
        {"language": "de", "task": "translate", "condition_on_previous_text": False, **SPEAKING},
        {"language": "en", "initial_prompt": " Names: Łódź. ", "prefix": "So", **SPEAKING},
        {"language": "en", "without_timestamps": True, "suppress_tokens": (-1, 11), **SPEAKING},
        {"language": "en", "max_initial_timestamp": None, "log_prob_threshold": None, "no_speech_threshold": 1e-9},
    ],
    ids=["defaults", "translate", "prompts", "no timestamps", "silence"],
)
def test_equals_openai(random_multilingual, multilingual_tokenizer, noise, options):
    assert_equals_openai(random_multilingual, multilingual_tokenizer, noise, **options)


def test_english_only_equals_openai(random_english, english_tokenizer, noise):
    ours, _ = assert_equals_openai(random_english, english_tokenizer, noise[:640_000], **SPEAKING)
    assert ours["segments"] and ours["language"] == "en"


def script(rng: np.random.Generator, begin: int) -> list[int]:
    """Tokens of a window: text and timestamps in any order, as no rule would let them come."""
    kinds = rng.integers(0, 4, rng.integers(0, 12))
    times = np.sort(rng.integers(1, 1501, len(kinds)))
    tokens = [begin, 1000] if rng.random() < 0.5 else []
    for kind, time in zip(kinds, times.tolist(), strict=True):
        tokens += {0: [1000], 1: [1000, begin + time], 2: [begin + time], 3: [begin + time] * 2}[int(kind)]
    return [220 if rng.random() < 0.2 else token for token in tokens]


class ScriptedModel:
    """openai-whisper's model and our engine in one: whatever it hears, it says the next line of a script."""

    is_multilingual, num_languages, device = True, 99, torch.device("cpu")

    def __init__(self, dims, results: list[DecodingResult]):
        self.dims, self.results = dims, results
        self.prompts, self.windows = [], []

    def encode(self, mel):
        self.windows.append(mel[0])
        return mel

    def next_result(self, prompt) -> DecodingResult:
        self.prompts.append(list(prompt))
        return self.results[len(self.prompts) - 1]

    def decode(self, mel, options):
        self.windows.append(mel.numpy())
        return self.next_result(options.prompt)


class GivenSpectrogram(Recording):
    """A recording whose spectrogram is given, with 30 s after its end as openai-whisper pads it."""

    def __init__(self, mel: np.ndarray):
        self.mel, self.n_frames, self.n_samples, self._needed = mel, mel.shape[1] - 3000, 0, 0
        self.sounding = np.ones(self.n_frames, bool)

    def window(self, first: int, end: int, n_frames: int) -> np.ndarray:
        return pad_or_trim(self.mel[:, first:end], n_frames)


@pytest.mark.parametrize("seed", range(40))
def test_loop_equals_openai_on_any_tokens(random_multilingual, multilingual_tokenizer, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    begin = multilingual_tokenizer.special.timestamp_begin
    mel = rng.normal(size=(80, 3000 + int(rng.integers(1, 12000)))).astype(np.float32)
    results = [
        DecodingResult("en", None, script(rng, begin), "", rng.uniform(-2, 0), rng.uniform(0, 1), 0.0, 1.5)
        for _ in range(400)
    ]
    options = {
        "language": "en",
        "initial_prompt": rng.choice([None, "So"]),
        "condition_on_previous_text": bool(rng.integers(0, 2)),
        "no_speech_threshold": rng.choice([None, 0.6]),
        "log_prob_threshold": rng.choice([None, -1.0]),
    }
    ours = ScriptedModel(random_multilingual.dims, results)
    monkeypatch.setattr("whisper2max.runtime.transcribe.Recording", lambda *_: GivenSpectrogram(mel))
    monkeypatch.setattr(
        "whisper2max.runtime.windows.decode",
        lambda engine, states, tokenizer, options: [engine.next_result(options[0].prompt)],
    )
    result = run(ours, multilingual_tokenizer, np.zeros(16000, np.float32), **options)

    theirs = ScriptedModel(random_multilingual.dims, results)
    # the function of the same name hides the module from a dotted path
    module = importlib.import_module("whisper.transcribe")
    monkeypatch.setattr(module, "log_mel_spectrogram", lambda *_, **__: torch.from_numpy(mel))
    options = {SAME_NAME.get(name, name): value for name, value in options.items()}
    expected = openai_segments(type("Engine", (), {"model": theirs}), np.zeros(16000, np.float32), **options)
    assert_same(result, expected)
    limit = random_multilingual.dims.n_text_ctx // 2 - 1
    assert [prompt[-limit:] for prompt in ours.prompts] == [prompt[-limit:] for prompt in theirs.prompts]
    assert len(ours.windows) == len(theirs.windows)
    for our_window, their_window in zip(ours.windows, theirs.windows, strict=True):
        np.testing.assert_array_equal(our_window, their_window)


def spoken_in_three_parts(noise: np.ndarray) -> np.ndarray:
    """float32: 20 s, 25 s and 10 s of noise with long silence around them."""
    silence = np.zeros(5 * 16000, np.float32)
    parts = noise[: 20 * 16000], noise[20 * 16000 : 45 * 16000], noise[45 * 16000 : 55 * 16000]
    return np.concatenate([piece for part in parts for piece in (silence, part)] + [silence])


def windows_of(samples: np.ndarray) -> list[tuple[int, int]]:
    powers = log_mel_powers(samples, 80)
    return cut_at_pauses(powers.mean(axis=0), powers.max(axis=0) > DIGITAL_SILENCE, 3000)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batches_give_each_window_what_it_gives_alone(random_multilingual, multilingual_tokenizer, noise, batch_size):
    samples = spoken_in_three_parts(noise)
    options = {"language": "en", "initial_prompt": "Names: Łódź.", "prefix": "So", **SPEAKING}
    random_multilingual.n_encoded = 0
    segments, info = transcribe(random_multilingual, multilingual_tokenizer, samples, batch_size=batch_size, **options)
    segments = list(segments)
    encoded = random_multilingual.n_encoded
    assert info.transcription_options.batch_size == batch_size
    assert [segment.id for segment in segments] == list(range(len(segments)))
    assert [segment.seek for segment in segments] == sorted(segment.seek for segment in segments)
    found = [(segment.seek, segment.tokens, segment.avg_logprob) for segment in segments]

    mel, windows = log_mel(samples, 80), windows_of(samples)
    assert len(windows) == 3
    expected, n_encoded = [], 0
    for seek, end in windows:
        while end - seek >= 50:
            reach = (end - seek - 50) / 100
            asked = DecodingOptions(language="en", prompt="Names: Łódź.", prefix="So", must_reach=reach)
            states = random_multilingual.encode(pad_or_trim(mel[:, seek:end], 3000)[None])
            (alone,) = decode(random_multilingual, states, multilingual_tokenizer, [asked])
            pieces, advance = slices(alone.tokens, range(50364, 51865), end - seek)
            expected += [(seek, tokens, alone.avg_logprob) for start, stop, tokens in pieces if has_text(tokens)]
            seek += advance
            n_encoded += 1
    assert found == expected and encoded == n_encoded


def has_text(tokens: list[int]) -> bool:
    return any(token < 50257 for token in tokens)


def test_the_language_of_a_batch_is_that_of_its_first_window(random_multilingual, multilingual_tokenizer, noise):
    samples = spoken_in_three_parts(noise)
    random_multilingual.n_encoded = 0
    segments, info = transcribe(random_multilingual, multilingual_tokenizer, samples, batch_size=2, **SPEAKING)
    assert random_multilingual.n_encoded == 3, "the language is detected in the first batch, and heard again in doubt"
    next(segments)
    assert random_multilingual.n_encoded == 3, "the first batch is encoded once"
    mel, start = log_mel(samples, 80), windows_of(samples)[0][0]
    # no language is sure of a random model: what follows the window is heard as well
    states = random_multilingual.encode(pad_or_trim(mel[:, start : start + 3000], 3000)[None])
    (probabilities,) = detect_language(random_multilingual, states, multilingual_tokenizer)
    assert dict(info.all_language_probs) == pytest.approx(probabilities)


BEGIN = 50364
AT = BEGIN + 50  # a second


@pytest.mark.parametrize("sizes", [[1] * 6, [2, 2, 1, 1], [3, 2, 1], [4, 2]])
def test_the_rest_of_a_window_is_heard_in_a_later_batch(
    random_multilingual, multilingual_tokenizer, noise, monkeypatch, sizes
):
    begun, whole = [BEGIN, 1, AT, AT, 2], [BEGIN, 3, AT + 50]
    said = {
        (0, 1000): begun,
        (100, 1000): [BEGIN, 4, AT + 380, AT + 380],
        (960, 1000): AssertionError("less than half a second is left"),
        (1500, 2000): whole,
        (2500, 3000): [BEGIN, 5, AT + 400, AT + 400],
        (3000, 3500): begun,
        (3100, 3500): [],
    }
    windows = [(0, 1000), (1500, 2000), (2500, 3000), (3000, 3500)]
    batches = []

    def states(heard, batch):
        batches.append(batch)
        return batch

    def decoded(engine, states, tokenizer, options):
        assert len(options) == len(batches[-1]) == len(states)
        assert [option.must_reach for option in options] == [(end - seek - 50) / 100 for seek, end in batches[-1]]
        return [DecodingResult("en", None, said[window], "", -0.5, 0.1, 0.0, 1.5) for window in batches[-1]]

    monkeypatch.setattr("whisper2max.runtime.transcribe.cut_at_pauses", lambda *_: windows)
    monkeypatch.setattr("whisper2max.runtime.windows.Heard.states", states)
    monkeypatch.setattr("whisper2max.runtime.windows.decode", decoded)
    segments, _ = transcribe(
        random_multilingual, multilingual_tokenizer, noise[: 36 * 16000], language="en", batch_size=sizes[0]
    )
    expected = [(0, 0, 1, 1), (1, 100, 4, 9.6), (2, 1500, 3, 17), (3, 2500, 5, 30), (4, 3000, 1, 31)]
    assert [(segment.id, segment.seek, segment.tokens[1], round(segment.end, 6)) for segment in segments] == expected
    assert sorted(window for batch in batches for window in batch) == sorted(said.keys() - {(960, 1000)})
    assert [len(batch) for batch in batches] == sizes, "rests fill up the batches of the windows after them"


def test_silent_windows_of_a_batch_are_left_out(random_multilingual, multilingual_tokenizer, noise, monkeypatch):
    samples = spoken_in_three_parts(noise)
    tokens = [BEGIN, 1, AT]
    sure, silent, mistaken = ((-0.5, 0.9), (-1.5, 0.9), (-1.5, 0.1))
    results = [DecodingResult("en", None, tokens, "", *both, 0.0, 1.5) for both in (sure, silent, mistaken)]
    monkeypatch.setattr("whisper2max.runtime.windows.decode", lambda *_: results)
    segments, _ = transcribe(random_multilingual, multilingual_tokenizer, samples, language="en", batch_size=8)
    assert [(segment.id, segment.avg_logprob) for segment in segments] == [(0, -0.5), (1, -1.5)]


@pytest.mark.parametrize("n_samples", [100, 35 * 16000])
def test_batches_of_nothing(random_multilingual, multilingual_tokenizer, n_samples):
    samples = np.zeros(n_samples, np.float32)
    segments, info = transcribe(random_multilingual, multilingual_tokenizer, samples, batch_size=4)
    assert list(segments) == [] and info.duration == n_samples / 16000
    assert (info.language, info.language_probability, info.all_language_probs) == (None, 0.0, None)


def test_batched_segments_do_not_overlap_or_outlast_their_window(
    random_multilingual, multilingual_tokenizer, noise, monkeypatch
):
    begun_after_the_end = [BEGIN, 1, AT + 900, AT + 900, 2, AT + 1100, AT + 1100, 3, AT + 1400]
    monkeypatch.setattr("whisper2max.runtime.transcribe.cut_at_pauses", lambda *_: [(0, 2000), (2000, 3550)])
    results = [DecodingResult("en", None, begun_after_the_end, "", -0.5, 0.1, 0.0, 1.5)] * 2
    monkeypatch.setattr("whisper2max.runtime.windows.decode", lambda *_: results)
    segments, info = transcribe(
        random_multilingual, multilingual_tokenizer, noise[: 36 * 16000], language="en", batch_size=2
    )
    times = [(round(segment.start, 6), round(segment.end, 6)) for segment in segments]
    assert times == [(0.0, 19.0), (19.0, 20.0), (20.0, 20.0), (20.0, 35.5), (35.5, 35.5), (35.5, 35.5)]


@pytest.mark.parametrize("seconds", [0, 2, 11, 29, 30, 31, 70])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_zeros_get_no_text_and_no_language(random_multilingual, multilingual_tokenizer, seconds, batch_size):
    random_multilingual.n_encoded = 0
    samples = np.zeros(max(1, seconds * 16000), np.float32)
    segments, info = transcribe(random_multilingual, multilingual_tokenizer, samples, batch_size=batch_size)
    assert list(segments) == [] and random_multilingual.n_encoded == 0
    assert (info.language, info.language_probability, info.all_language_probs) == (None, 0.0, None)
    given = transcribe(random_multilingual, multilingual_tokenizer, samples, language="de", batch_size=batch_size)[1]
    assert (given.language, given.language_probability) == ("de", 1.0)


def test_zeros_before_speech_decide_nothing_and_are_not_heard(random_multilingual, multilingual_tokenizer, noise):
    speech = noise[: 20 * 16000]
    late = np.concatenate([np.zeros(90 * 16000, np.float32), speech])
    segments, info = transcribe(random_multilingual, multilingual_tokenizer, late, **SPEAKING)
    random_multilingual.n_encoded = 0
    segments, n_encoded = list(segments), random_multilingual.n_encoded
    assert segments and segments[0].seek == 9000 and info.language is not None
    assert n_encoded == 0, "the window that decided the language is the first that is decoded"
    segments, _ = transcribe(random_multilingual, multilingual_tokenizer, late, batch_size=4, **SPEAKING)
    assert all(segment.seek > 8900 for segment in segments)


def test_times_of_the_container(random_multilingual, multilingual_tokenizer, noise, monkeypatch):
    said = [BEGIN, 1, AT, AT, 2, AT + 100, AT + 100, 3, AT + 200]
    monkeypatch.setattr(
        "whisper2max.runtime.windows.decode",
        lambda *_: [DecodingResult("en", None, said, "", -0.5, 0.1, 0.0, 1.5)],
    )

    def times(**options):
        segments, _ = transcribe(
            random_multilingual, multilingual_tokenizer, noise[: 8 * 16000], language="en", **options
        )
        return [(segment.start, segment.end) for segment in segments]

    plain = times()
    assert plain == [(0.0, 1.0), (1.0, 3.0), (3.0, 5.0)]
    jumps = [(0, 5.0), (4 * 16000, 25.0)]
    monkeypatch.setattr("whisper2max.runtime.transcribe.open_sound", lambda *_: with_jumps(noise[: 8 * 16000], jumps))
    assert times() == plain
    assert times(container_times=True) == [(5.0, 6.0), (6.0, 8.0), (8.0, 30.0)]


def with_jumps(samples: np.ndarray, jumps: list[tuple[int, float]]) -> Sound:
    return Sound("film", lambda: iter([samples]), jumps)


def test_what_is_known_before_the_text(random_multilingual, multilingual_tokenizer, noise):
    random_multilingual.n_encoded = 0
    segments, info = transcribe(random_multilingual, multilingual_tokenizer, noise)
    assert random_multilingual.n_encoded == 1, "the language is detected before the first segment is asked for"
    assert info.duration == 70.0
    assert info.all_language_probs[0] == (info.language, info.language_probability)
    assert sum(probability for _, probability in info.all_language_probs) == pytest.approx(1.0, abs=1e-5)
    assert info.transcription_options.condition_on_previous_text
    next(iter(segments), None)
    assert random_multilingual.n_encoded == 1, "the first window is encoded once"

    _, info = transcribe(random_multilingual, multilingual_tokenizer, noise, language="French")
    assert (info.language, info.language_probability, info.all_language_probs) == ("fr", 1.0, None)


def test_nothing_to_hear(random_english, english_tokenizer):
    assert run(random_english, english_tokenizer, np.zeros(100, np.float32))["segments"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"language": "klingon"}, "such as en"),
        ({"language": "yue"}, "not among the 99"),
        ({"task": "summarise"}, "expected transcribe or translate"),
        ({"suppress_tokens": (60000,)}, "suppress_tokens holds 60000"),
        ({"initial_prompt": [60000]}, "outside of the vocabulary"),
        ({"prefix": [7] * 500}, "shorten the prefix"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(random_multilingual, multilingual_tokenizer, noise, options, said):
    with pytest.raises(UsageError, match=said):
        transcribe(random_multilingual, multilingual_tokenizer, noise, **options)


@pytest.mark.parametrize("options", [{"language": "de"}, {"task": "translate"}])
def test_english_only_models_know_english(random_english, english_tokenizer, noise, options):
    with pytest.raises(UsageError, match="English-only"):
        transcribe(random_english, english_tokenizer, noise, **options)


def test_options_that_do_not_exist_yet_are_not_accepted():
    accepted = inspect.signature(transcribe).parameters
    for name in ("beam_size", "best_of", "temperature", "vad_filter", "word_timestamps", "hotwords"):
        assert name not in accepted


def test_the_runtime_imports_no_torch():
    names = ("audio", "features", "decoding", "pauses", "transcribe", "writers")
    modules = [f"whisper2max.runtime.{name}" for name in names]
    unwanted = "{'torch', 'transformers', 'whisper', 'jinja2'}"
    program = f"import sys, {', '.join(modules)}; assert not {unwanted} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_real_speech(tiny_en, english_tokenizer, clips):
    samples = load_audio(clips["en_jfk.mp3"]["path"])
    ours, theirs = assert_equals_openai(tiny_en, english_tokenizer, samples)
    assert ours["text"] == theirs["text"]
    assert "ask not what your country can do for you" in ours["text"]

    thrice = np.concatenate([samples, np.zeros(8000, np.float32)] * 3)
    segments = list(transcribe(tiny_en, english_tokenizer, thrice, batch_size=4)[0])
    assert "".join(segment.text for segment in segments).count("what you can do for your country") == 3
    assert len({segment.seek for segment in segments}) == 2
    assert [segment.start for segment in segments] == sorted(segment.start for segment in segments)
