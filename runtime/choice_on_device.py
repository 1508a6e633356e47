"""What may follow a text, and the token that was chosen, as the graph `choose` takes and gives them."""

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
        asked = np.zeros((len(allowed), NUMBERS), np.int32)
        for row, each in zip(asked, allowed, strict=True):
            row[0] = self._number(each.suppressed)
            if len(each.forbidden) > _RANGES:
                raise UsageError(f"{len(each.forbidden)} ranges of tokens are forbidden; {_RANGES} at most can be")
            for number, (begin, end) in enumerate(each.forbidden):
                row[1 + 2 * number : 3 + 2 * number] = begin, end
            row[7:9] = each.together or (0, 0)
            row[9] = -1 if each.unless_first is None else each.unless_first
        return asked

    def _number(self, suppressed: np.ndarray) -> int:
        key = suppressed.tobytes()
        if key not in self._numbers:
            mask = np.zeros((1, self.masks.shape[1]), np.uint8)
            mask[0, suppressed] = 1
            self._numbers[key] = len(self.masks)
            self.masks = np.concatenate([self.masks, mask])
        return self._numbers[key]


def answered(answer: np.ndarray) -> Choice:
    """The choice that four numbers of the graph stand for."""
    token, score, logprob, refused = answer
    return Choice(int(token), score, logprob, None if np.isnan(refused) else refused)
