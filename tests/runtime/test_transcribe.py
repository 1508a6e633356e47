import subprocess
import sys

import numpy as np
import pytest
from told import Told
from upstream import SAME_NAME, assert_same, openai_segments

from whisper2max.core.errors import UsageError
from whisper2max.runtime.audio import Sound, load_audio
from whisper2max.runtime.decoding import decode, detect_language
from whisper2max.runtime.features import log_mel, log_mel_powers, pad_or_trim
from whisper2max.runtime.hypotheses import DecodingResult
from whisper2max.runtime.options import DecodingOptions, TranscriptionOptions
from whisper2max.runtime.pauses import cut_at_pauses
from whisper2max.runtime.recording import DIGITAL_SILENCE
from whisper2max.runtime.rest import TellTheRest
from whisper2max.runtime.segments import slices
from whisper2max.runtime.transcribe import transcribe
from whisper2max.runtime.writers import to_result

BEGIN = 50364
AT = BEGIN + 50  # a second


def transcribed(engine, tokenizer, samples: np.ndarray, **options):
    return transcribe(engine, tokenizer, samples, TranscriptionOptions(**options))


def run(engine, tokenizer, samples: np.ndarray, **options) -> dict:
    segments, info = transcribed(engine, tokenizer, samples, **options)
    return to_result(segments, info.language)


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
    random_multilingual.n_heard = 0
    segments, info = transcribed(random_multilingual, multilingual_tokenizer, samples, batch_size=batch_size, **options)
    segments = list(segments)
    encoded = random_multilingual.n_heard
    assert info.transcription_options.batch_size == batch_size
    assert [segment.id for segment in segments] == list(range(len(segments)))
    assert [segment.seek for segment in segments] == sorted(segment.seek for segment in segments)
    found = [(segment.seek, segment.tokens, segment.avg_logprob) for segment in segments]

    mel, windows = log_mel(samples, 80), windows_of(samples)
    assert len(windows) == 3
    expected, n_heard = [], 0
    for seek, end in windows:
        while end - seek >= 50:
            reach = (end - seek - 50) / 100
            asked = DecodingOptions(language="en", prompt="Names: Łódź.", prefix="So")
            window = pad_or_trim(mel[:, seek:end], 3000)[None]
            end_rule = TellTheRest(multilingual_tokenizer, reach)
            (alone,) = decode(random_multilingual, multilingual_tokenizer, window, [asked], [end_rule])
            pieces, advance = slices(alone.tokens, range(50364, 51865), end - seek)
            expected += [(seek, tokens, alone.avg_logprob) for start, stop, tokens in pieces if has_text(tokens)]
            seek += advance
            n_heard += 1
    assert found == expected and encoded == n_heard


def has_text(tokens: list[int]) -> bool:
    return any(token < 50257 for token in tokens)


def test_the_language_of_a_batch_is_that_of_its_first_window(random_multilingual, multilingual_tokenizer, noise):
    samples = spoken_in_three_parts(noise)
    random_multilingual.n_heard = random_multilingual.n_sessions = 0
    segments, info = transcribed(random_multilingual, multilingual_tokenizer, samples, batch_size=2, **SPEAKING)
    assert random_multilingual.n_heard == 2, "the language is detected in the first window, and heard again in doubt"
    mel, start = log_mel(samples, 80), windows_of(samples)[0][0]
    # no language is sure of a random model: what follows the window is heard as well
    window = pad_or_trim(mel[:, start : start + 3000], 3000)[None]
    (probabilities,) = detect_language(random_multilingual, multilingual_tokenizer, window)
    assert dict(info.all_language_probs) == pytest.approx(probabilities)

    random_multilingual.n_heard = random_multilingual.n_sessions = 0
    found = [segment.tokens for segment in segments]
    after, n_sessions = random_multilingual.n_heard, random_multilingual.n_sessions
    given, _ = transcribed(
        random_multilingual, multilingual_tokenizer, samples, batch_size=2, language=info.language, **SPEAKING
    )
    assert found == [segment.tokens for segment in given]
    assert after + 1 == random_multilingual.n_heard - after, "the first window is heard once"
    assert (n_sessions, random_multilingual.n_sessions) == (0, 1), "one session for detection and decoding"


@pytest.mark.parametrize(("seconds", "sure", "n_heard"), [(11, 0.0, 1), (11, 0.9, 2), (30, 0.9, 1)])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_detection_and_decoding_hear_a_clip_once(
    random_multilingual, multilingual_tokenizer, noise, monkeypatch, seconds, sure, n_heard, batch_size
):
    """Unless the language is in doubt, and the window has an end that silence could follow."""
    monkeypatch.setattr("whisper2max.runtime.detection.SURE_LANGUAGE", sure)
    random_multilingual.n_heard = random_multilingual.n_sessions = 0
    # one segment without times, so that no rest is heard
    options = {"without_timestamps": True, "suppress_tokens": range(BEGIN, 51865), "batch_size": batch_size}
    samples = noise[: seconds * 16000]
    segments, info = transcribed(random_multilingual, multilingual_tokenizer, samples, **options, **SPEAKING)
    assert len(list(segments)) == 1 and info.language is not None
    assert (random_multilingual.n_heard, random_multilingual.n_sessions) == (n_heard, 1)


@pytest.mark.parametrize("n_samples", [100, 35 * 16000])
def test_batches_of_nothing(random_multilingual, multilingual_tokenizer, n_samples):
    samples = np.zeros(n_samples, np.float32)
    segments, info = transcribed(random_multilingual, multilingual_tokenizer, samples, batch_size=4)
    assert list(segments) == [] and info.duration == n_samples / 16000
    assert (info.language, info.language_probability, info.all_language_probs) == (None, 0.0, None)


@pytest.mark.parametrize("seconds", [0, 2, 11, 29, 30, 31, 70])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_zeros_get_no_text_and_no_language(random_multilingual, multilingual_tokenizer, seconds, batch_size):
    random_multilingual.n_heard = 0
    samples = np.zeros(max(1, seconds * 16000), np.float32)
    segments, info = transcribed(random_multilingual, multilingual_tokenizer, samples, batch_size=batch_size)
    assert list(segments) == [] and random_multilingual.n_heard == 0
    assert (info.language, info.language_probability, info.all_language_probs) == (None, 0.0, None)
    given = transcribed(random_multilingual, multilingual_tokenizer, samples, language="de", batch_size=batch_size)[1]
    assert (given.language, given.language_probability) == ("de", 1.0)


def test_zeros_before_speech_decide_nothing_and_are_not_heard(random_multilingual, multilingual_tokenizer, noise):
    speech = noise[: 20 * 16000]
    late = np.concatenate([np.zeros(90 * 16000, np.float32), speech])
    segments, info = transcribed(random_multilingual, multilingual_tokenizer, late, **SPEAKING)
    random_multilingual.n_heard = 0
    segments, n_heard = list(segments), random_multilingual.n_heard
    assert segments and segments[0].seek == 9000 and info.language is not None
    assert n_heard == 0, "the window that decided the language is the first that is decoded"
    segments, _ = transcribed(random_multilingual, multilingual_tokenizer, late, batch_size=4, **SPEAKING)
    assert all(segment.seek > 8900 for segment in segments)


def test_times_of_the_container(random_multilingual, multilingual_tokenizer, noise, monkeypatch):
    said = [BEGIN, 1, AT, AT, 2, AT + 100, AT + 100, 3, AT + 200]
    result = DecodingResult("en", None, said, "", -0.5, 0.1, 0.0, 1.5)
    monkeypatch.setattr("whisper2max.runtime.transcribe.Decoder", lambda *_, **__: Told(lambda window: result))

    def times(**options):
        samples = noise[: 8 * 16000]
        segments, _ = transcribed(random_multilingual, multilingual_tokenizer, samples, language="en", **options)
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
    random_multilingual.n_heard = 0
    segments, info = transcribed(random_multilingual, multilingual_tokenizer, noise)
    assert random_multilingual.n_heard == 1, "the language is detected before the first segment is asked for"
    assert info.duration == 70.0
    assert info.all_language_probs[0] == (info.language, info.language_probability)
    assert sum(probability for _, probability in info.all_language_probs) == pytest.approx(1.0, abs=1e-5)
    assert info.transcription_options.condition_on_previous_text
    next(iter(segments), None)
    assert random_multilingual.n_heard == 1, "the first window is encoded once"

    _, info = transcribed(random_multilingual, multilingual_tokenizer, noise, language="French")
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
        ({"batch_size": 4, "condition_on_previous_text": True}, "condition_on_previous_text was asked together with"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(random_multilingual, multilingual_tokenizer, noise, options, said):
    with pytest.raises(UsageError, match=said):
        transcribed(random_multilingual, multilingual_tokenizer, noise, **options)


@pytest.mark.parametrize("options", [{"language": "de"}, {"task": "translate"}])
def test_english_only_models_know_english(random_english, english_tokenizer, noise, options):
    with pytest.raises(UsageError, match="English-only"):
        transcribed(random_english, english_tokenizer, noise, **options)


def test_the_runtime_imports_no_torch():
    names = ("audio", "features", "decoding", "options", "pauses", "protocol", "transcribe", "writers")
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
    segments = list(transcribed(tiny_en, english_tokenizer, thrice, batch_size=4)[0])
    assert "".join(segment.text for segment in segments).count("what you can do for your country") == 3
    assert len({segment.seek for segment in segments}) == 2
    assert [segment.start for segment in segments] == sorted(segment.start for segment in segments)
