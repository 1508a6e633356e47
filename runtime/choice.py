"""The most probable of the tokens that may follow a text.

What may follow is said in few numbers, so that it is asked of logits wherever they lie: here of an array; on a device
of a kernel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Number = np.float32 | float
"""A value of float32."""


class Allowed(NamedTuple):
    """What may follow a text.

    Attributes:
        suppressed: int64 ids that never may. Texts that are decoded alike share the array.
        forbidden: first id and one past the last of those that may not now.
        together: first id and one past the last of those of which one is taken if all of them together are more
            probable than any other: the timestamps. None where there are no such.
        unless_first: an id that is refused where it is the most probable, and left where it is not; None for none.
    """

    suppressed: np.ndarray
    forbidden: tuple[tuple[int, int], ...] = ()
    together: tuple[int, int] | None = None
    unless_first: int | None = None


class Choice(NamedTuple):
    """The token that is most probable.

    Attributes:
        token: its id.
        score: its logit; no finite number if nothing may follow, or logits are damaged.
        logprob: its natural log-probability among all that may follow.
        refused: the log-probability of `Allowed.unless_first`, if it was refused.
    """

    token: int
    score: Number
    logprob: Number
    refused: Number | None = None


def choose(scores: np.ndarray, allowed: Allowed) -> Choice:
    """The choice among logits.

    Args:
        scores: float32 [n_vocab], overwritten: a copy would push them out of the cache.
        allowed: what may follow.
    """
    scores[allowed.suppressed] = -np.inf
    for begin, end in allowed.forbidden:
        scores[begin:end] = -np.inf
    refused = None
    if allowed.unless_first is not None and scores.argmax() == allowed.unless_first:
        refused = scores[allowed.unless_first] - log_sum_exp(scores)
        scores[allowed.unless_first] = -np.inf
    first = 0
    if allowed.together is not None:
        begin, end = allowed.together
        most_of_others = np.maximum(scores[:begin].max(), scores[end:].max(initial=-np.inf))
        if log_sum_exp(scores[begin:end]) > most_of_others:
            first, scores = begin, scores[begin:end]
    chosen = int(scores.argmax())
    score = scores[chosen]
    scores -= score
    logprob = -np.log(np.exp(scores, out=scores).sum())
    return Choice(first + chosen, score, logprob, refused)


def choose_each(logits: np.ndarray, allowed: Sequence[Allowed]) -> list[Choice]:
    """The choice of each row of float32 [rows, n_vocab], overwritten."""
    return [choose(scores, each) for scores, each in zip(logits, allowed, strict=True)]


def log_sum_exp(scores: np.ndarray) -> np.float32:
    """The logarithm of the sum of the exponentials; minus infinity where nothing may be sampled."""
    highest = scores.max(initial=-np.inf)
    if highest == -np.inf:
        return highest
    return highest + np.log(np.exp(scores - highest).sum())
