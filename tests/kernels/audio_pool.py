"""Pools of packed keys and values that the kernels store and read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from max.driver import Buffer
from max.engine import Model
from max.graph import TensorType

UNTOUCHED = 0x5A
"""Every byte of a pool that nothing was stored in."""


@dataclass(frozen=True)
class AudioPool:
    """Keys and values of recordings that graphs read, [audios, layers, heads, ..].

    Attributes:
        types: of both.
        store: writes float32 [n, frames, heads * head_dim] of keys and of values into `places` of a layer.
    """

    types: tuple[TensorType, TensorType]
    store: Model

    def filled(self, n: int, keys: np.ndarray, values: np.ndarray, layer: int, places: Sequence[int]) -> list[Buffer]:
        """New pools of n recordings with these in them."""
        pools = []
        for kind in self.types:
            shape = [n, *map(int, kind.shape[1:])]
            untouched = np.full(math.prod(shape) * kind.dtype.size_in_bytes, UNTOUCHED, np.uint8)
            pools.append(Buffer.from_numpy(untouched).view(kind.dtype, shape))
        given = [keys, values, np.array([layer], np.int64), np.array(places, np.int64)]
        self.store.execute(*pools, *map(Buffer.from_numpy, given))
        return pools
