"""What may be sampled next: openai-whisper's logit filters, for one window.

Names and behaviour follow `whisper/decoding.py`.
"""

import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from whisper2max.core.errors import ArtifactError, UsageError
from whisper2max.runtime.hypotheses import Hypothesis
from whisper2max.runtime.options import DecodingOptions
from whisper2max.runtime.prompts import most_sampled
from whisper2max.runtime.tokens import SECONDS_PER_TIMESTAMP, Tokenizer


class EndRule(Protocol):
    """Decides where a text may end, for those who know what follows the window."""

    def before(self, scores: np.ndarray, hypothesis: Hypothesis) -> None:
        """Rule out the end where the text should go on, after all other rules; in place, as `Rules.apply`."""

    def after(self, hypothesis: Hypothesis) -> None:
        """Look at a text that grew by a token; in place."""


class Rules:
    """The rules of one window.

    Args:
        tokenizer: of the model.
        n_text_ctx: the decoder's positions.
        options: of the window.
        n_prompt: tokens before the first sampled one.
        end_rule: decides where the text may end; None leaves that to the model. It is not asked without timestamps.

    Raises:
        UsageError: an option holds an id outside of the vocabulary.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        n_text_ctx: int,
        options: DecodingOptions,
        n_prompt: int,
        end_rule: EndRule | None = None,
    ):
        special = tokenizer.special
        self._n_prompt = n_prompt
        # the last token is not fed to the decoder, so it needs no position
        self._most = min(most_sampled(options, n_text_ctx), n_text_ctx + 1 - n_prompt)
        self._eot = special.eot
        self._timestamps = special.timestamps
        # the ids that follow rules of their own; without timestamps the whole vocabulary is text
        self._timed = not options.without_timestamps
        self._suppressed = _suppressed(tokenizer, options)
        self._begin_suppressed = _begin_suppressed(tokenizer, options)
        self._latest_initial_timestamp = self._timestamps[-1]
        if options.max_initial_timestamp:
            steps = round(options.max_initial_timestamp / SECONDS_PER_TIMESTAMP)
            self._latest_initial_timestamp = min(self._timestamps.start + steps, self._timestamps[-1])
        self._end_rule = end_rule if self._timed else None

    def apply(self, scores: np.ndarray, hypothesis: Hypothesis) -> slice:
        """Rules out what may not follow a hypothesis.

        Args:
            scores: logits, float32 [n_vocab], overwritten: a copy would push them out of the cache.
            hypothesis: the text so far.

        Returns:
            The ids that the next token is one of; those outside are ruled out whatever their scores.
        """
        scores[self._suppressed] = -np.inf
        if not hypothesis.tokens:
            scores[self._begin_suppressed] = -np.inf
        everything = slice(0, scores.size)
        if not self._timed:
            return everything
        self._apply_timestamp_rules(scores, hypothesis)
        if self._end_rule is not None:
            self._end_rule.before(scores, hypothesis)
        # one of the timestamps is sampled if together they are more probable than any text
        begin, end = self._timestamps.start, self._timestamps.stop
        most_of_text = np.maximum(scores[:begin].max(), scores[end:].max(initial=-np.inf))
        return slice(begin, end) if log_sum_exp(scores[begin:end]) > most_of_text else everything

    def follow(self, hypothesis: Hypothesis, token: int, logprob: np.float32) -> Hypothesis:
        """The hypothesis that a token makes of another, which stays as it is."""
        tokens = [*hypothesis.tokens, token]
        following = Hypothesis(
            tokens,
            hypothesis.sum_logprob + logprob,
            token if token in self._timestamps else hypothesis.last_timestamp,
            finished=token == self._eot or len(tokens) >= self._most,
            passed=hypothesis.passed,
        )
        if self._end_rule is not None:
            self._end_rule.after(following)
        return following

    def require_possible(self, hypothesis: Hypothesis, highest: np.float32) -> None:
        """Raises ArtifactError if the highest score that the rules left is no number."""
        if not math.isfinite(highest):
            raise ArtifactError(
                f"No token may stand at position {self._n_prompt + len(hypothesis.tokens)}, the highest logit is "
                f"{highest}: suppress_tokens holds all that may follow, or the model is damaged; verify the artifact."
            )

    def _apply_timestamp_rules(self, scores: np.ndarray, hypothesis: Hypothesis) -> None:
        begin, end = self._timestamps.start, self._timestamps.stop
        tokens = hypothesis.tokens
        if not tokens:
            scores[:begin] = -np.inf
            scores[self._latest_initial_timestamp + 1 :] = -np.inf
            return
        last_was_timestamp = tokens[-1] in self._timestamps
        penultimate_was_timestamp = len(tokens) < 2 or tokens[-2] in self._timestamps
        if last_was_timestamp and penultimate_was_timestamp:
            scores[begin:end] = -np.inf
        elif last_was_timestamp:
            # a segment may begin where the last one ended
            scores[: self._eot] = -np.inf
            scores[end:] = -np.inf
            scores[begin : hypothesis.last_timestamp] = -np.inf
        elif hypothesis.last_timestamp is not None:
            # but may not end where it began
            scores[begin : hypothesis.last_timestamp + 1] = -np.inf


def log_sum_exp(scores: np.ndarray) -> float:
    """The logarithm of the sum of the exponentials; minus infinity where nothing may be sampled."""
    highest = scores.max(initial=-np.inf)
    if highest == -np.inf:
        return -math.inf
    return highest + np.log(np.exp(scores - highest).sum())


def _suppressed(tokenizer: Tokenizer, options: DecodingOptions) -> np.ndarray:
    """int64 ids of what is never sampled."""
    special = tokenizer.special
    never = set(tokenizer.padding)
    if not options.without_timestamps:
        never.add(special.no_timestamps)
    if suppressed := set(options.suppress_tokens or ()):
        if -1 in suppressed:
            suppressed = {token for token in suppressed if token >= 0}.union(tokenizer.non_speech_tokens())
        _require_ids("suppress_tokens", suppressed, tokenizer, ", or -1 for those that no speech contains")
        never |= suppressed
        never |= {special.transcribe, special.translate, special.sot, special.sot_prev}
        never |= {special.sot_lm, special.no_speech}
    return np.array(sorted(never), np.int64)


def _begin_suppressed(tokenizer: Tokenizer, options: DecodingOptions) -> list[int]:
    """Ids of what is not sampled first."""
    if not options.suppress_blank:
        return []
    if options.begin_suppress_tokens is None:
        return tokenizer.begin_suppress_tokens()
    _require_ids("begin_suppress_tokens", options.begin_suppress_tokens, tokenizer)
    return list(options.begin_suppress_tokens)


def _require_ids(name: str, ids: Iterable[int], tokenizer: Tokenizer, also: str = "") -> None:
    outside = sorted(token for token in ids if not 0 <= token < tokenizer.n_vocab)
    if outside:
        raise UsageError(f"{name} holds {outside[0]}; expected ids from 0 to {tokenizer.n_vocab - 1}{also}.")
