import numpy as np
import pytest

from whisper2max.runtime.hypotheses import Ending, Hypothesis, compression_ratio, decoding_result

EOT, SOT, BEGIN = 50257, 50258, 50364


def test_the_end_counts_as_a_token_and_is_not_told(multilingual_tokenizer):
    tokens = [BEGIN, *multilingual_tokenizer.encode(" So it was"), BEGIN + 50]
    for sampled in (tokens, [*tokens, EOT]):
        hypothesis = Hypothesis(sampled, np.float32(-3))
        result = decoding_result(multilingual_tokenizer, hypothesis, "en", None, 0.25)
        assert (result.tokens, result.text) == (tokens, "So it was")
        assert result.avg_logprob == pytest.approx(-3 / (len(tokens) + 1))
        assert (result.language, result.language_probs, result.no_speech_prob) == ("en", None, 0.25)
        assert (result.temperature, result.compression_ratio) == (0, compression_ratio("So it was"))
        assert hypothesis.tokens == sampled, "the hypothesis stays as it is"


def test_a_special_token_that_was_sampled_stays_visible(multilingual_tokenizer):
    result = decoding_result(multilingual_tokenizer, Hypothesis([BEGIN, SOT, 1000, EOT]), "en", None, 0.0)
    assert result.text == "<|startoftranscript|>" + multilingual_tokenizer.decode([1000]).rstrip()


def test_nothing_said(multilingual_tokenizer):
    result = decoding_result(multilingual_tokenizer, Hypothesis([EOT], np.float32(-0.5)), "en", {"en": 1.0}, 0.0)
    assert (result.tokens, result.text, result.avg_logprob) == ([], "", -0.5)
    assert result.language_probs == {"en": 1.0}


def test_what_followed_an_end_is_taken_back():
    hypothesis = Hypothesis([BEGIN, 1, 2, 3], np.float32(-9), BEGIN)
    hypothesis.end_at(Ending(2, np.float32(-2), np.float32(-1)), EOT)
    assert (hypothesis.tokens, hypothesis.sum_logprob, hypothesis.finished) == ([BEGIN, 1, EOT], -2, True)


def test_text_that_repeats_itself_is_told_by_its_compression():
    assert compression_ratio("So it was, and so it will be.") < 1
    assert compression_ratio("So it was. " * 40) > 10
