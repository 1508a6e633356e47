"""The weights themselves: weights.safetensors against what the walked checkpoint gives, value by value.

A wrong value that no recording reaches, a late row of the position table or the embedding of a rare token,
is found here and nowhere else.
"""

from collections.abc import Mapping

import numpy as np

from whisper2max.core.held import HeldFile
from whisper2max.parity.report import WeightAudit, WeightDifference
from whisper2max.runtime.weights import map_weights


def audit(weights: HeldFile, expected: Mapping[str, np.ndarray], source_paths: Mapping[str, str]) -> WeightAudit:
    """Compare every stored tensor with the expected one; they are equal bit for bit or they differ.

    Args:
        weights: a weights.safetensors.
        expected: every tensor by name, after the passes of the dtype.
        source_paths: names in the checkpoint's tree by canonical name.
    """
    stored = map_weights(weights)
    different = []
    for name in dict.fromkeys([*expected, *stored]):
        got, wanted = stored.get(name), expected.get(name)
        if got is None or wanted is None or got.shape != wanted.shape or got.dtype != wanted.dtype:
            different.append(WeightDifference(name, source_paths.get(name), 0, (), None, None))
            continue
        bits = f"u{got.itemsize}"
        places = np.flatnonzero(got.reshape(-1).view(bits) != wanted.reshape(-1).view(bits))
        if places.size:
            index = tuple(int(each) for each in np.unravel_index(places[0], got.shape))
            value, right = float(got[index]), float(wanted[index])
            different.append(WeightDifference(name, source_paths.get(name), len(places), index, value, right))
    return WeightAudit(len(expected), sum(tensor.size for tensor in expected.values()), tuple(different))
