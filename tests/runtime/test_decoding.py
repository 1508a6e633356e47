import dataclasses

import numpy as np
import pytest
import torch
import whisper

from whisper2max.core.errors import UsageError
from whisper2max.runtime.decoding import decode, detect_language
from whisper2max.runtime.features import log_mel
from whisper2max.runtime.options import DecodingOptions, check_language


def windows(noise: np.ndarray, count: int) -> np.ndarray:
    """float32 [count, 80, 3000]: different stretches of noise."""
    starts = np.linspace(0, noise.size - 480_000, count).astype(int)
    return np.stack([log_mel(noise[start : start + 480_000], 80) for start in starts])


def of_openai(engine, mel: np.ndarray, options: DecodingOptions):
    given = dataclasses.asdict(options)
    assert given.pop("begin_suppress_tokens") is None
    if given["suppress_tokens"] is not None:
        given["suppress_tokens"] = list(given["suppress_tokens"])
    return whisper.decode(engine.model, torch.from_numpy(mel), whisper.DecodingOptions(**given, fp16=False))


def assert_same(ours, theirs) -> None:
    assert ours.tokens == theirs.tokens
    assert ours.text == theirs.text
    assert ours.language == theirs.language
    assert ours.compression_ratio == theirs.compression_ratio
    assert ours.temperature == theirs.temperature == 0
    np.testing.assert_allclose(ours.avg_logprob, theirs.avg_logprob, rtol=1e-5)
    np.testing.assert_allclose(ours.no_speech_prob, theirs.no_speech_prob, rtol=1e-4)


EOT = 50257
SOME = 30  # tokens: enough to meet every rule
MULTILINGUAL = {
    "defaults": DecodingOptions(language="en"),
    "translate": DecodingOptions(language="de", task="translate", sample_len=SOME),
    "prompt": DecodingOptions(language="en", prompt="Names: Ångström, Łódź.", sample_len=SOME),
    "prompt longer than half the context": DecodingOptions(
        language="en", prompt=list(range(300, 900)), sample_len=SOME
    ),
    "prefix": DecodingOptions(language="fr", prefix="Bonjour", sample_len=SOME),
    "prefix cut to make room": DecodingOptions(language="fr", prefix=list(range(300, 400)), sample_len=204),
    "prompt and prefix": DecodingOptions(language="en", prompt=[1000, 1001], prefix="So", sample_len=SOME),
    "no timestamps": DecodingOptions(language="en", without_timestamps=True, sample_len=40),
    "no timestamps, prompt": DecodingOptions(language="en", without_timestamps=True, prompt="So", sample_len=9),
    "nothing suppressed": DecodingOptions(language="en", suppress_tokens=None, sample_len=SOME),
    "empty list suppresses nothing": DecodingOptions(language="en", suppress_tokens=(), sample_len=SOME),
    "some suppressed": DecodingOptions(language="en", suppress_tokens=(11, 13), sample_len=SOME),
    "some more suppressed": DecodingOptions(language="en", suppress_tokens=(-1, 11, 13), sample_len=SOME),
    "to the end of the context": DecodingOptions(
        language="en", prompt=list(range(300, 600)), suppress_tokens=(-1, EOT)
    ),
    "blank start": DecodingOptions(language="en", suppress_blank=False, sample_len=SOME),
    "late start": DecodingOptions(language="en", max_initial_timestamp=None, sample_len=SOME),
    "early start": DecodingOptions(language="en", max_initial_timestamp=0.1, sample_len=SOME),
    "few tokens": DecodingOptions(language="en", sample_len=3),
}


@pytest.mark.parametrize("options", MULTILINGUAL.values(), ids=MULTILINGUAL.keys())
def test_equals_openai(random_multilingual, multilingual_tokenizer, noise, options):
    for mel in windows(noise, 2):
        (ours,) = decode(random_multilingual, multilingual_tokenizer, mel[None], [options])
        assert_same(ours, of_openai(random_multilingual, mel, options))
        assert ours.language_probs is None


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(language="en"),
        DecodingOptions(language="English", prompt="So", prefix="it"),
        DecodingOptions(language="en", without_timestamps=True),
    ],
    ids=["defaults", "prompt and prefix", "no timestamps"],
)
def test_english_only_equals_openai(random_english, english_tokenizer, noise, options):
    (mel,) = windows(noise, 1)
    options = dataclasses.replace(options, sample_len=SOME)
    (ours,) = decode(random_english, english_tokenizer, mel[None], [options])
    theirs = of_openai(random_english, mel, options)
    assert_same(dataclasses.replace(ours, language=theirs.language), theirs)
    assert ours.language == "en"


def test_rows_decode_as_they_do_alone(random_multilingual, multilingual_tokenizer, noise):
    options = [
        DecodingOptions(language="en", sample_len=50),
        DecodingOptions(language="de", task="translate", prompt="So", sample_len=80),
        DecodingOptions(prompt=list(range(300, 600)), suppress_tokens=(-1, EOT), sample_len=100),
        DecodingOptions(language="fr", without_timestamps=True, sample_len=7),
        DecodingOptions(language="ja", prefix="Bonjour", sample_len=20),
        DecodingOptions(sample_len=40),
        DecodingOptions(language="en", sample_len=1),
        DecodingOptions(language="en", prompt=list(range(300, 350)), suppress_blank=False, sample_len=60),
    ]
    mel = windows(noise, len(options))
    together = decode(random_multilingual, multilingual_tokenizer, mel, options)
    for row, option in enumerate(options):
        (alone,) = decode(random_multilingual, multilingual_tokenizer, mel[row : row + 1], [option])
        assert together[row] == alone
    assert len({len(result.tokens) for result in together}) > 4


def test_language_detection_equals_openai(random_multilingual, multilingual_tokenizer, noise):
    mel = windows(noise, 3)
    ours = detect_language(random_multilingual, multilingual_tokenizer, mel)
    _, theirs = whisper.detect_language(random_multilingual.model, torch.from_numpy(mel))
    assert [list(row) for row in ours] == [list(multilingual_tokenizer.special.languages)] * 3
    for our_row, their_row in zip(ours, theirs, strict=True):
        assert our_row == pytest.approx(their_row, rel=1e-5)
    results = decode(random_multilingual, multilingual_tokenizer, mel, [DecodingOptions(sample_len=SOME)] * 3)
    assert [result.language for result in results] == [max(row, key=row.get) for row in theirs]
    assert [result.language_probs for result in results] == ours
    assert_same(results[0], of_openai(random_multilingual, mel[0], DecodingOptions(sample_len=SOME)))


MEL = np.zeros((1, 80, 3000), np.float32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (DecodingOptions(language="klingon"), "klingon"),
        (DecodingOptions(language="yue"), "not among the 99"),
        (DecodingOptions(task="summarise"), "expected transcribe or translate"),
        (DecodingOptions(language="en", suppress_tokens=(51865,)), "suppress_tokens holds 51865"),
        (DecodingOptions(language="en", suppress_tokens=(-2,)), "suppress_tokens holds -2"),
        (DecodingOptions(language="en", begin_suppress_tokens=[51865]), "begin_suppress_tokens holds 51865"),
        (DecodingOptions(language="en", prompt=[51865]), "outside of the vocabulary"),
        (DecodingOptions(language="en", prefix=[7] * 446), "449 tokens"),
    ],
)
def test_options_that_cannot_be(random_multilingual, multilingual_tokenizer, options, said):
    with pytest.raises(UsageError, match=said):
        decode(random_multilingual, multilingual_tokenizer, MEL, [options])


def test_one_option_for_each_window(random_multilingual, multilingual_tokenizer):
    with pytest.raises(UsageError, match="2 decoding options for 1 windows"):
        decode(random_multilingual, multilingual_tokenizer, MEL, [DecodingOptions()] * 2)


@pytest.mark.parametrize(
    "options",
    [DecodingOptions(language="de-AT"), DecodingOptions(language="german"), DecodingOptions(task="translate")],
)
def test_english_only_models_know_english(random_english, english_tokenizer, options):
    with pytest.raises(UsageError, match="English-only"):
        decode(random_english, english_tokenizer, MEL, [options])


def test_a_language_is_given_or_detected(random_multilingual, english_tokenizer, multilingual_tokenizer):
    for asked, of_any, of_english in (("auto", None, "en"), (None, None, "en"), ("en-US", "en", "en")):
        assert check_language(multilingual_tokenizer, asked, "transcribe") == of_any
        assert check_language(english_tokenizer, asked, "transcribe") == of_english
    assert check_language(multilingual_tokenizer, "zh_Hans_CN", "transcribe") == "zh"


def test_english_only_models_detect_nothing(random_english, english_tokenizer):
    with pytest.raises(UsageError, match="English-only"):
        detect_language(random_english, english_tokenizer, MEL)
