"""A graph on a GPU whose launches are recorded once for each number of rows, and repeated as one from then on.

A step of a small model launches 70 kernels, each of which takes the host longer than the GPU. Recorded, inputs and
outputs stay where they are in the GPU's memory: what is another than in the run before is copied there.
"""

import itertools
import weakref
from collections.abc import Callable, Sequence

import numpy as np
from max.driver import Buffer
from max.engine import Model

_keys = itertools.count(1)  # of recordings, which a model keeps by a number that is the caller's


class Replayed:
    """A graph of which some inputs are always the same.

    Args:
        model: the graph.
        fixed: its last inputs.
        placed: puts an array into the GPU's memory.
    """

    def __init__(self, model: Model, fixed: Sequence[Buffer], placed: Callable[[np.ndarray], Buffer]):
        self._model, self._fixed, self._placed = model, list(fixed), placed
        self._inputs: dict[int, list[Buffer]] = {}
        self._given: dict[int, list[np.ndarray]] = {}  # what lies in them
        self._recorded: dict[int, tuple[int, list[Buffer]]] = {}
        weakref.finalize(self, _release, model, self._recorded)

    def __call__(self, *changing: np.ndarray) -> list[Buffer]:
        """Run it.

        Args:
            changing: its other inputs, as many rows in each. Between two steps most rows look where they looked.

        Returns:
            Outputs, which the next run of as many rows overwrites.
        """
        rows = len(changing[0])
        if rows not in self._inputs:
            # the first run loads kernels, which cannot be recorded
            self._inputs[rows] = [self._placed(each) for each in changing]
            self._given[rows] = [each.copy() for each in changing]
            return self._model.execute(*self._inputs[rows], *self._fixed)
        inputs = self._inputs[rows]
        for there, given, here in zip(inputs, self._given[rows], changing, strict=True):
            if not np.array_equal(given, here):
                given[...] = here
                there.inplace_copy_from(Buffer.from_numpy(given))
        if rows not in self._recorded:
            key = next(_keys)
            self._recorded[rows] = key, self._model.capture(key, *inputs, *self._fixed)
        key, outputs = self._recorded[rows]
        self._model.replay(key, *inputs, *self._fixed)
        return outputs


def _release(model: Model, recorded: dict[int, tuple[int, list[Buffer]]]) -> None:
    keys = [key for key, _ in recorded.values()]
    recorded.clear()  # outputs first
    for key in keys:
        model.release_captured_graph(key)
