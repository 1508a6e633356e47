import dataclasses
import json

import numpy as np
import pytest
import torch
import whisper
from whisper.decoding import ApplyTimestampRules, SuppressBlank, SuppressTokens
from whisper.tokenizer import get_tokenizer

from whisper2max.core.errors import ArtifactError, UsageError
from whisper2max.runtime.decoding import DecodingOptions, check_language, decode, detect_language
from whisper2max.runtime.features import log_mel
from whisper2max.runtime.tokens import Tokenizer


def windows(noise: np.ndarray, count: int) -> np.ndarray:
    """float32 [count, 80, 3000]: different stretches of noise."""
    starts = np.linspace(0, noise.size - 480_000, count).astype(int)
    return np.stack([log_mel(noise[start : start + 480_000], 80) for start in starts])


def of_openai(engine, mel: np.ndarray, options: DecodingOptions):
    given = dataclasses.asdict(options)
    for ours_alone in ("must_reach", "begin_suppress_tokens"):
        assert given.pop(ours_alone) is None
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
        (ours,) = decode(random_multilingual, random_multilingual.encode(mel[None]), multilingual_tokenizer, [options])
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
    (ours,) = decode(random_english, random_english.encode(mel[None]), english_tokenizer, [options])
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
    states = random_multilingual.encode(windows(noise, len(options)))
    together = decode(random_multilingual, states, multilingual_tokenizer, options)
    for row, option in enumerate(options):
        (alone,) = decode(random_multilingual, states[row : row + 1], multilingual_tokenizer, [option])
        assert_same(together[row], alone)
    assert len({len(result.tokens) for result in together}) > 4


def test_language_detection_equals_openai(random_multilingual, multilingual_tokenizer, noise):
    mel = windows(noise, 3)
    states = random_multilingual.encode(mel)
    ours = detect_language(random_multilingual, states, multilingual_tokenizer)
    _, theirs = whisper.detect_language(random_multilingual.model, states)
    assert [list(row) for row in ours] == [list(multilingual_tokenizer.special.languages)] * 3
    for our_row, their_row in zip(ours, theirs, strict=True):
        assert our_row == pytest.approx(their_row, rel=1e-5)
    results = decode(random_multilingual, states, multilingual_tokenizer, [DecodingOptions(sample_len=SOME)] * 3)
    assert [result.language for result in results] == [max(row, key=row.get) for row in theirs]
    assert [result.language_probs for result in results] == ours
    assert_same(results[0], of_openai(random_multilingual, mel[0], DecodingOptions(sample_len=SOME)))


class ScriptedEngine:
    """Gives the logits it was told, step by step, whatever it hears."""

    def __init__(self, dims, logits: list[np.ndarray]):
        self.dims, self.logits = dims, iter(logits)

    def prompt(self, states, tokens, picked):
        return np.repeat(next(self.logits)[None, None], picked.shape[1], axis=1), self

    def step(self, tokens, positions):
        return next(self.logits)[None].copy()


STATES = np.zeros((1, 1500, 32), np.float32)


def test_finished_rows_go_on_at_position_0(random_multilingual, multilingual_tokenizer):
    seen = []

    class Recording(ScriptedEngine):
        def prompt(self, states, tokens, picked):
            logits, _ = super().prompt(states, tokens, picked)
            return np.repeat(logits, len(states), axis=0), self

        def step(self, tokens, positions):
            seen.append(positions.tolist())
            return np.repeat(super().step(tokens, positions), len(tokens), axis=0)

    logits = np.random.default_rng(0).normal(size=(3, multilingual_tokenizer.n_vocab)).astype(np.float32)
    engine = Recording(random_multilingual.dims, list(logits))
    options = [DecodingOptions(language="en", sample_len=sample_len) for sample_len in (1, 3)]
    decode(engine, np.repeat(STATES, 2, 0), multilingual_tokenizer, options)
    assert seen == [[0, 3], [0, 4]]


@pytest.mark.parametrize("seed", range(12))
def test_rules_equal_openai_on_any_logits(random_multilingual, multilingual_tokenizer, seed):
    rng = np.random.default_rng(seed)
    begin, n_vocab = multilingual_tokenizer.special.timestamp_begin, multilingual_tokenizer.n_vocab
    steps = rng.normal(size=(60, n_vocab)).astype(np.float32)
    # now text, now timestamps are likely, and time runs on
    for step in range(len(steps)):
        steps[step, begin:] += rng.choice([-6.0, 1.0, 6.0])
        now = begin + min(1500, step * rng.integers(0, 40))
        steps[step, now : now + 20] += rng.uniform(0, 6)
        steps[step, rng.integers(0, 50257)] += rng.uniform(0, 12)
    steps.flags.writeable = False

    theirs = get_tokenizer(True, language="en", task="transcribe")
    suppressed = multilingual_tokenizer.default_suppress_tokens()
    filters = [SuppressBlank(theirs, 3), SuppressTokens(suppressed), ApplyTimestampRules(theirs, 3, 50)]
    tokens, sum_logprob = torch.tensor([theirs.sot_sequence]), 0.0
    for step in steps:
        logits = torch.from_numpy(step.copy())[None]
        for logit_filter in filters:
            logit_filter.apply(logits, tokens)
        token = logits.argmax(dim=-1)
        sum_logprob += logits.log_softmax(dim=-1)[0, token].item()
        tokens = torch.cat([tokens, token[None]], dim=-1)
        if token == theirs.eot:
            break
    expected = [token for token in tokens[0, 3:].tolist() if token != theirs.eot]

    engine = ScriptedEngine(random_multilingual.dims, list(steps))
    options = DecodingOptions(language="en", sample_len=len(steps))
    (result,) = decode(engine, STATES, multilingual_tokenizer, [options])
    assert result.tokens == expected
    np.testing.assert_allclose(result.avg_logprob, sum_logprob / (len(expected) + 1), rtol=1e-5)
    assert sum(token >= begin for token in expected) > 3


SURE, UNSURE = 1.0, -12.0


@pytest.mark.parametrize(
    ("likely", "must_reach", "next_logit", "expected"),
    [
        ("0 text 50 50 eot", None, SURE, "0 text 50 50"),
        ("0 text 50 50 eot", 1.0, SURE, "0 text 50 50"),
        ("0 text 50 50 eot 60 eot", 1.02, SURE, "0 text 50 50 next 60"),
        ("0 text 50 50 eot 60 60 eot 70 eot", 1.3, SURE, "0 text 50 50 next 60 60 next 70"),
        ("0 text 50 50 text 60 60 eot", 1.02, SURE, "0 text 50 50 text 60 60"),
        ("0 text 50 eot", 20.0, SURE, "0 text 50"),
        ("0 text eot", 20.0, SURE, "0 text"),
        ("0 eot", 20.0, SURE, "0"),
        ("0 text 50 50 eot 60 eot", 1.02, UNSURE, "0 text 50 50"),
        ("0 text 50 50 eot eot", 1.02, SURE, "0 text 50 50"),
        ("0 text 50 50 eot 60 60 eot eot", 1.3, SURE, "0 text 50 50"),
        ("0 text 50 50 eot" + 60 * " text" + " 60 eot", 1.02, SURE, "0 text 50 50"),
        ("0 text 50 50 eot" + 219 * " text", 1.02, SURE, "0 text 50 50"),
    ],
    ids=[
        "openai-whisper leaves the rest", "begins at the end", "begins before it", "twice", "goes on by itself",
        "ends by itself", "ends without a timestamp", "nothing said", "unsure", "not closed", "the second not closed",
        "repetitive", "no room",
    ],
)  # fmt: skip
def test_a_segment_that_no_other_window_hears(
    random_multilingual, multilingual_tokenizer, likely, must_reach, next_logit, expected
):
    """Numbers are timestamps; what is likely step by step, and next to it "next" with the same logit always."""
    begin = multilingual_tokenizer.special.timestamp_begin
    words = {"text": 1000, "next": 1001, "eot": EOT}

    def ids(line: str) -> list[int]:
        return [words[word] if word in words else begin + int(word) for word in line.split()]

    logits = np.full((len(likely.split()), multilingual_tokenizer.n_vocab), -20.0, np.float32)
    logits[:, words["next"]] = next_logit
    logits[np.arange(len(logits)), ids(likely)] = 5.0

    def decoded(must_reach: float | None):
        engine = ScriptedEngine(random_multilingual.dims, list(logits))
        options = DecodingOptions(language="en", must_reach=must_reach)
        return decode(engine, STATES, multilingual_tokenizer, [options])[0]

    result, left = decoded(must_reach), decoded(None)
    assert result.tokens == ids(expected)
    if result.tokens == left.tokens:
        np.testing.assert_allclose(result.avg_logprob, left.avg_logprob, rtol=1e-5, atol=1e-6)


def test_the_first_token_is_none_that_the_checkpoint_suppresses_there(random_multilingual, multilingual_tokenizer):
    logits = np.zeros((3, multilingual_tokenizer.n_vocab), np.float32)
    logits[:, 1000], logits[:, 1001], logits[2, EOT] = 9.0, 8.0, 20.0
    options = DecodingOptions(language="en", without_timestamps=True, begin_suppress_tokens=[1000, EOT])
    for changed, expected in (
        (options, [1001, 1000]),
        (dataclasses.replace(options, begin_suppress_tokens=None), [1000, 1000]),
        (dataclasses.replace(options, suppress_blank=False), [1000, 1000]),
    ):
        engine = ScriptedEngine(random_multilingual.dims, list(logits))
        assert decode(engine, STATES, multilingual_tokenizer, [changed])[0].tokens == expected


@pytest.fixture(scope="module")
def grown_tokenizer(multilingual_tokenizer) -> Tokenizer:
    """A word and a mark were added after the timestamps, then the vocabulary was padded to a multiple of 64."""
    document = json.loads(multilingual_tokenizer.source)
    document["added_tokens"] += [
        {"id": 51865, "content": " Zyvöx", "special": False},
        {"id": 51866, "content": "<|speaker|>", "special": True},
    ]
    return Tokenizer.from_json(json.dumps(document), 51904)


def test_added_tokens_are_text_or_marks_and_never_timestamps(random_multilingual, grown_tokenizer):
    begin = grown_tokenizer.special.timestamp_begin
    word, mark = 51865, 51866
    likely = [word, 1000, word, mark, begin + 50, word, word, EOT]
    logits = np.zeros((len(likely), grown_tokenizer.n_vocab), np.float32)
    logits[np.arange(len(likely)), likely] = 9.0
    # where only a timestamp may stand, which a word would be taken for if its id were all that is looked at
    logits[0, begin + 7] = logits[5, begin + 50] = 8.0
    # rows without a token are most likely of all
    logits[:, 51867:] = 20.0
    engine = ScriptedEngine(random_multilingual.dims, list(logits))
    (result,) = decode(engine, STATES, grown_tokenizer, [DecodingOptions(language="en", suppress_tokens=None)])
    assert result.tokens == [begin + 7, 1000, word, mark, begin + 50, begin + 50, word]
    assert result.text == f"{grown_tokenizer.decode([1000])} Zyvöx<|speaker|> Zyvöx".strip()


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers(random_multilingual, multilingual_tokenizer, damage):
    logits = np.full(multilingual_tokenizer.n_vocab, damage, np.float32)
    engine = ScriptedEngine(random_multilingual.dims, [logits])
    with pytest.raises(ArtifactError, match="position 3"), np.errstate(invalid="ignore"):
        decode(engine, STATES, multilingual_tokenizer, [DecodingOptions(language="en")])


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
        decode(random_multilingual, STATES, multilingual_tokenizer, [options])


def test_one_option_for_each_window(random_multilingual, multilingual_tokenizer):
    with pytest.raises(UsageError, match="2 decoding options for 1 windows"):
        decode(random_multilingual, STATES, multilingual_tokenizer, [DecodingOptions()] * 2)


@pytest.mark.parametrize(
    "options",
    [DecodingOptions(language="de-AT"), DecodingOptions(language="german"), DecodingOptions(task="translate")],
)
def test_english_only_models_know_english(random_english, english_tokenizer, options):
    with pytest.raises(UsageError, match="English-only"):
        decode(random_english, STATES, english_tokenizer, [options])


def test_a_language_is_given_or_detected(random_multilingual, english_tokenizer, multilingual_tokenizer):
    for asked, of_any, of_english in (("auto", None, "en"), (None, None, "en"), ("en-US", "en", "en")):
        assert check_language(multilingual_tokenizer, asked, "transcribe") == of_any
        assert check_language(english_tokenizer, asked, "transcribe") == of_english
    assert check_language(multilingual_tokenizer, "zh_Hans_CN", "transcribe") == "zh"


def test_english_only_models_detect_nothing(random_english, english_tokenizer):
    with pytest.raises(UsageError, match="English-only"):
        detect_language(random_english, STATES, english_tokenizer)
