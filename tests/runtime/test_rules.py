"""What may be sampled, against openai-whisper's logit filters on the same logits."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from whisper.decoding import ApplyTimestampRules, SuppressBlank, SuppressTokens
from whisper.tokenizer import get_tokenizer

from whisper2max.core.errors import ArtifactError
from whisper2max.runtime.choice import choose, choose_each
from whisper2max.runtime.hypotheses import DecodingResult, Hypothesis, decoding_result
from whisper2max.runtime.options import DecodingOptions
from whisper2max.runtime.rules import Rules
from whisper2max.runtime.search import Greedy
from whisper2max.runtime.tokens import Tokenizer

EOT, N_TEXT_CTX, N_PROMPT = 50257, 448, 3


def greedy(tokenizer: Tokenizer, options: DecodingOptions, logits) -> DecodingResult:
    """The text that logits make, step by step, under the rules of the options."""
    search = Greedy(Rules(tokenizer, N_TEXT_CTX, options, N_PROMPT))
    for step in logits:
        if not search.live:
            break
        search.advance(choose_each(step[None].copy(), search.allowed()))
    return decoding_result(tokenizer, search.best(), "en", None, 0.0)


@pytest.mark.parametrize("seed", range(12))
def test_rules_equal_openai_on_any_logits(multilingual_tokenizer, seed):
    rng = np.random.default_rng(seed)
    begin, n_vocab = multilingual_tokenizer.special.timestamp_begin, multilingual_tokenizer.n_vocab
    steps = rng.normal(size=(60, n_vocab)).astype(np.float32)
    # now text, now timestamps are likely, and time runs on
    for step in range(len(steps)):
        steps[step, begin:] += rng.choice([-6.0, 1.0, 6.0])
        now = begin + min(1500, step * rng.integers(0, 40))
        steps[step, now : now + 20] += rng.uniform(0, 6)
        steps[step, rng.integers(0, 50257)] += rng.uniform(0, 12)

    theirs = get_tokenizer(True, language="en", task="transcribe")
    suppressed = multilingual_tokenizer.default_suppress_tokens()
    filters = [SuppressBlank(theirs, 3), SuppressTokens(suppressed), ApplyTimestampRules(theirs, 3, 50)]
    tokens, sum_logprob = torch.tensor([theirs.sot_sequence]), 0.0
    rules = Rules(multilingual_tokenizer, N_TEXT_CTX, DecodingOptions(), N_PROMPT)
    for step in steps:
        logits = torch.from_numpy(step.copy())[None]
        for logit_filter in filters:
            logit_filter.apply(logits, tokens)
        sampled = tokens[0, 3:].tolist()
        times = [token for token in sampled if token >= begin]
        allowed = rules.allowed(Hypothesis(sampled, last_timestamp=times[-1] if times else None))
        chosen = choose(step.copy(), allowed)
        token = logits.argmax(dim=-1)
        assert chosen.token == token and chosen.score == logits[0, token] and chosen.refused is None
        np.testing.assert_allclose(chosen.logprob, logits.log_softmax(dim=-1)[0, token].item(), rtol=1e-5, atol=1e-6)
        # of the filters by id, each that may follow
        possible = np.ones(n_vocab, bool)
        possible[allowed.suppressed] = False
        for first, end in allowed.forbidden:
            possible[first:end] = False
        filtered = np.isfinite(logits[0].numpy())
        taken = slice(*allowed.together) if not filtered[:begin].any() else slice(None)
        np.testing.assert_array_equal(possible[taken], filtered[taken])
        sum_logprob += logits.log_softmax(dim=-1)[0, token].item()
        tokens = torch.cat([tokens, token[None]], dim=-1)
        if token == theirs.eot:
            break
    expected = [token for token in tokens[0, 3:].tolist() if token != theirs.eot]

    result = greedy(multilingual_tokenizer, DecodingOptions(sample_len=len(steps)), steps)
    assert result.tokens == expected
    np.testing.assert_allclose(result.avg_logprob, sum_logprob / (len(expected) + 1), rtol=1e-5)
    assert sum(token >= begin for token in expected) > 3


def test_the_first_token_is_none_that_the_checkpoint_suppresses_there(multilingual_tokenizer):
    logits = np.zeros((3, multilingual_tokenizer.n_vocab), np.float32)
    logits[:, 1000], logits[:, 1001], logits[2, EOT] = 9.0, 8.0, 20.0
    options = DecodingOptions(without_timestamps=True, begin_suppress_tokens=[1000, EOT])
    for changed, expected in (
        (options, [1001, 1000]),
        (dataclasses.replace(options, begin_suppress_tokens=None), [1000, 1000]),
        (dataclasses.replace(options, suppress_blank=False), [1000, 1000]),
    ):
        assert greedy(multilingual_tokenizer, changed, logits).tokens == expected


@pytest.fixture(scope="module")
def grown_tokenizer(multilingual_tokenizer) -> Tokenizer:
    """A word and a mark were added after the timestamps, then the vocabulary was padded to a multiple of 64."""
    document = json.loads(multilingual_tokenizer.source)
    document["added_tokens"] += [
        {"id": 51865, "content": " Zyvöx", "special": False},
        {"id": 51866, "content": "<|speaker|>", "special": True},
    ]
    return Tokenizer.from_json(json.dumps(document), 51904)


def test_added_tokens_are_text_or_marks_and_never_timestamps(grown_tokenizer):
    begin = grown_tokenizer.special.timestamp_begin
    word, mark = 51865, 51866
    likely = [word, 1000, word, mark, begin + 50, word, word, EOT]
    logits = np.zeros((len(likely), grown_tokenizer.n_vocab), np.float32)
    logits[np.arange(len(likely)), likely] = 9.0
    # where only a timestamp may stand, which a word would be taken for if its id were all that is looked at
    logits[0, begin + 7] = logits[5, begin + 50] = 8.0
    # rows without a token are most likely of all
    logits[:, 51867:] = 20.0
    result = greedy(grown_tokenizer, DecodingOptions(suppress_tokens=None), logits)
    assert result.tokens == [begin + 7, 1000, word, mark, begin + 50, begin + 50, word]
    assert result.text == f"{grown_tokenizer.decode([1000])} Zyvöx<|speaker|> Zyvöx".strip()


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [slice(None), slice(1000, 1001), slice(50370, 50371)], ids=["all", "text", "time"])
def test_logits_that_are_no_numbers(multilingual_tokenizer, damage, where):
    logits = np.zeros((3, multilingual_tokenizer.n_vocab), np.float32)
    # after a timestamp and a word, both may follow
    logits[1, 1000] = 9.0
    logits[2, where] = damage
    options = DecodingOptions(suppress_tokens=None)
    if damage == -np.inf and where != slice(None):
        assert len(greedy(multilingual_tokenizer, options, logits).tokens) == 3
        return
    with pytest.raises(ArtifactError, match="position 5"), np.errstate(invalid="ignore"):
        greedy(multilingual_tokenizer, options, logits)


def test_nothing_is_left_to_sample(multilingual_tokenizer):
    options = DecodingOptions(suppress_tokens=range(multilingual_tokenizer.n_vocab))
    with pytest.raises(ArtifactError, match="suppress_tokens holds all that may follow"):
        greedy(multilingual_tokenizer, options, np.zeros((1, multilingual_tokenizer.n_vocab), np.float32))
