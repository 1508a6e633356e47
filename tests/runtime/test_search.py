import numpy as np
import pytest

from whisper2max.runtime.choice import choose_each
from whisper2max.runtime.options import DecodingOptions
from whisper2max.runtime.rules import Rules
from whisper2max.runtime.search import Greedy

EOT = 50257
TEXT = DecodingOptions(without_timestamps=True)


def logits(tokenizer, *likely: int) -> np.ndarray:
    """float32 [1, n_vocab]: the first of the tokens has 3, the next 2, then 1, then 0 as all others."""
    scores = np.zeros((1, tokenizer.n_vocab), np.float32)
    scores[0, list(likely)] = np.arange(3, 3 - len(likely), -1)
    return scores


def advance(search: Greedy, scores: np.ndarray) -> list[int]:
    return search.advance(choose_each(scores, search.allowed()))


def test_greedy_takes_the_most_probable_that_may_follow(multilingual_tokenizer):
    search = Greedy(Rules(multilingual_tokenizer, 448, TEXT, 3))
    (begun,) = search.live
    assert begun.tokens == []
    # 220, a space, may not come first, and 50258, the start, never
    assert advance(search, logits(multilingual_tokenizer, 220, 1000, 50258)) == [0]
    assert advance(search, logits(multilingual_tokenizer, 50258, 220)) == [0]
    (live,) = search.live
    assert live.tokens == [1000, 220] and live is search.best() and not live.finished
    n_left = multilingual_tokenizer.n_vocab - len(multilingual_tokenizer.default_suppress_tokens())
    first = 2 - np.log(np.exp(2) + n_left - 1 - 2)
    second = 2 - np.log(np.exp(2) + n_left - 1)
    assert live.sum_logprob == pytest.approx(first + second, rel=1e-5)
    assert begun.tokens == [], "those that came before stay as they are"


def test_greedy_ends_with_the_end(multilingual_tokenizer):
    search = Greedy(Rules(multilingual_tokenizer, 448, TEXT, 3))
    advance(search, logits(multilingual_tokenizer, 1000))
    assert advance(search, logits(multilingual_tokenizer, EOT)) == []
    assert search.live == [] and search.best().tokens == [1000, EOT]


@pytest.mark.parametrize(("n_prompt", "sample_len", "expected"), [(3, 2, 2), (3, None, 224), (447, None, 2)])
def test_greedy_ends_where_no_more_is_wanted_or_fits(multilingual_tokenizer, n_prompt, sample_len, expected):
    options = DecodingOptions(without_timestamps=True, sample_len=sample_len)
    search, steps = Greedy(Rules(multilingual_tokenizer, 448, options, n_prompt)), 0
    while search.live:
        advance(search, logits(multilingual_tokenizer, 1000))
        steps += 1
    assert steps == expected and search.best().tokens == [1000] * expected
