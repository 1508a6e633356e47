"""What may be sampled next: openai-whisper's logit filters, for one window.

Names and behaviour follow `whisper/decoding.py`.
"""

import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from whisper2max.core.errors import ArtifactError, UsageError
from whisper2max.runtime.choice import Allowed, Choice, Number
from whisper2max.runtime.hypotheses import Hypothesis
from whisper2max.runtime.options import DecodingOptions
from whisper2max.runtime.prompts import most_sampled
from whisper2max.runtime.tokens import SECONDS_PER_TIMESTAMP, Tokenizer


class EndRule(Protocol):
    """Decides where a text may end, for those who know what follows the window."""

    def wants_more(self, hypothesis: Hypothesis) -> bool:
        """Whether the text should go on, should its end be the most probable."""

    def end_refused(self, hypothesis: Hypothesis, logprob: Number) -> None:
        """Told the log-probability of an end that was refused; in place."""

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
        self._eot, self._n_vocab = special.eot, tokenizer.n_vocab
        self._timestamps = special.timestamps
        # the ids that follow rules of their own; without timestamps the whole vocabulary is text
        self._timed = not options.without_timestamps
        self._suppressed = _suppressed(tokenizer, options)
        begin_suppressed = np.array(_begin_suppressed(tokenizer, options), np.int64)
        self._suppressed_first = np.union1d(self._suppressed, begin_suppressed)
        self._latest_initial_timestamp = self._timestamps[-1]
        if options.max_initial_timestamp:
            steps = round(options.max_initial_timestamp / SECONDS_PER_TIMESTAMP)
            self._latest_initial_timestamp = min(self._timestamps.start + steps, self._timestamps[-1])
        self._end_rule = end_rule if self._timed else None

    def allowed(self, hypothesis: Hypothesis) -> Allowed:
        """What may follow a text."""
        suppressed = self._suppressed if hypothesis.tokens else self._suppressed_first
        if not self._timed:
            return Allowed(suppressed)
        more = self._end_rule is not None and self._end_rule.wants_more(hypothesis)
        return Allowed(
            suppressed,
            self._forbidden(hypothesis),
            (self._timestamps.start, self._timestamps.stop),
            self._eot if more else None,
        )

    def follow(self, hypothesis: Hypothesis, choice: Choice) -> Hypothesis:
        """The text that a token makes of another, which keeps its tokens.

        Raises:
            ArtifactError: nothing may follow, or the logits are no numbers.
        """
        self._require_possible(hypothesis, choice.score)
        if self._end_rule is not None and choice.refused is not None:
            self._end_rule.end_refused(hypothesis, choice.refused)
        token, tokens = choice.token, [*hypothesis.tokens, choice.token]
        following = Hypothesis(
            tokens,
            hypothesis.sum_logprob + choice.logprob,
            token if token in self._timestamps else hypothesis.last_timestamp,
            finished=token == self._eot or len(tokens) >= self._most,
            passed=hypothesis.passed,
        )
        if self._end_rule is not None:
            self._end_rule.after(following)
        return following

    def _require_possible(self, hypothesis: Hypothesis, highest: Number) -> None:
        if not math.isfinite(highest):
            raise ArtifactError(
                f"No token may stand at position {self._n_prompt + len(hypothesis.tokens)}, the highest logit is "
                f"{highest}: suppress_tokens holds all that may follow, or the model is damaged; verify the artifact."
            )

    def _forbidden(self, hypothesis: Hypothesis) -> tuple[tuple[int, int], ...]:
        """What the rules about timestamps do not allow now, as first ids and ends."""
        begin, end, n_vocab = self._timestamps.start, self._timestamps.stop, self._n_vocab
        tokens = hypothesis.tokens
        if not tokens:
            return (0, begin), (self._latest_initial_timestamp + 1, n_vocab)
        last_was_timestamp = tokens[-1] in self._timestamps
        penultimate_was_timestamp = len(tokens) < 2 or tokens[-2] in self._timestamps
        if last_was_timestamp and penultimate_was_timestamp:
            return ((begin, end),)
        if last_was_timestamp:
            # a segment may begin where the last one ended
            return (0, self._eot), (begin, tokens[-1]), (end, n_vocab)
        if hypothesis.last_timestamp is not None:
            # but may not end where it began
            return ((begin, hypothesis.last_timestamp + 1),)
        return ()


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
