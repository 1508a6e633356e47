"""A segment that the model leaves to the next window, where none follows."""

import numpy as np
import pytest

from whisper2max.runtime.choice import choose_each
from whisper2max.runtime.hypotheses import decoding_result
from whisper2max.runtime.options import DecodingOptions
from whisper2max.runtime.rest import TellTheRest
from whisper2max.runtime.rules import Rules
from whisper2max.runtime.search import Greedy

EOT = 50257
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
def test_a_segment_that_no_other_window_hears(multilingual_tokenizer, likely, must_reach, next_logit, expected):
    """Numbers are timestamps; what is likely step by step, and next to it "next" with the same logit always."""
    begin = multilingual_tokenizer.special.timestamp_begin
    words = {"text": 1000, "next": 1001, "eot": EOT}

    def ids(line: str) -> list[int]:
        return [words[word] if word in words else begin + int(word) for word in line.split()]

    logits = np.full((len(likely.split()), multilingual_tokenizer.n_vocab), -20.0, np.float32)
    logits[:, words["next"]] = next_logit
    logits[np.arange(len(logits)), ids(likely)] = 5.0

    def decoded(must_reach: float | None):
        end_rule = None if must_reach is None else TellTheRest(multilingual_tokenizer, must_reach)
        search = Greedy(Rules(multilingual_tokenizer, 448, DecodingOptions(), 3, end_rule))
        for step in logits:
            if search.live:
                search.advance(choose_each(step[None].copy(), search.allowed()))
        assert not search.live
        return decoding_result(multilingual_tokenizer, search.best(), "en", None, 0.0)

    result, left = decoded(must_reach), decoded(None)
    assert result.tokens == ids(expected)
    if result.tokens == left.tokens:
        np.testing.assert_allclose(result.avg_logprob, left.avg_logprob, rtol=1e-5, atol=1e-6)


def test_without_timestamps_nothing_is_asked_for(multilingual_tokenizer):
    begin = multilingual_tokenizer.special.timestamp_begin
    logits = np.zeros((3, multilingual_tokenizer.n_vocab), np.float32)
    logits[np.arange(3), [begin, begin, EOT]] = 9.0
    end_rule = TellTheRest(multilingual_tokenizer, 20.0)
    options = DecodingOptions(without_timestamps=True, suppress_tokens=None)
    search = Greedy(Rules(multilingual_tokenizer, 448, options, 3, end_rule))
    for step in logits:
        search.advance(choose_each(step[None], search.allowed()))
    assert search.best().tokens == [begin, begin, EOT]
