"""What may follow a text, and the token that was chosen, as the graph `choose` takes and gives them."""

import math
from collections.abc import Sequence

import numpy as np

from whisper2max.core.errors import UsageError
from whisper2max.runtime.choice import Allowed, Choice

NUMBERS = 10
"""That say what may follow in a row: kernels/choose.mojo."""

_RANGES = 3


class Masks:
    """What is suppressed, as rows of bytes; texts that are decoded alike share one.

    Args:
        n_vocab: ids.

    Attributes:
        masks: uint8 [masks, n_vocab], 0 where an id may follow.
    """

    def __init__(self, n_vocab: int):
        self.masks = np.empty((0, n_vocab), np.uint8)
        self._numbers: dict[bytes, int] = {}

    def asked(self, allowed: Sequence[Allowed]) -> np.ndarray:
        """What may follow in each row, int32 [rows, 10]; `masks` then holds all that they ask for."""
        return np.array([self._numbers_of(each) for each in allowed], np.int32)

    def _numbers_of(self, allowed: Allowed) -> list[int]:
        numbers = [self._number(allowed.suppressed)]
        if len(allowed.forbidden) > _RANGES:
            raise UsageError(f"{len(allowed.forbidden)} ranges of tokens are forbidden; {_RANGES} at most can be")
        for first_and_end in allowed.forbidden:
            numbers += first_and_end
        numbers += [0] * (1 + 2 * _RANGES - len(numbers))
        numbers += allowed.together or (0, 0)
        numbers.append(-1 if allowed.unless_first is None else allowed.unless_first)
        return numbers

    def _number(self, suppressed: np.ndarray) -> int:
        key = suppressed.tobytes()
        if key not in self._numbers:
            mask = np.zeros((1, self.masks.shape[1]), np.uint8)
            mask[0, suppressed] = 1
            self._numbers[key] = len(self.masks)
            self.masks = np.concatenate([self.masks, mask])
        return self._numbers[key]


def answered(answers: np.ndarray) -> list[Choice]:
    """The choices that four numbers of the graph stand for in each row, float32 [rows, 4]."""
    return [
        Choice(int(token), score, logprob, None if math.isnan(refused) else refused)
        for token, score, logprob, refused in answers.tolist()
    ]
