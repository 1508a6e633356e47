"""The weights themselves: weights.safetensors, unpacked, against the walked checkpoint, value by value.

A wrong value that no recording reaches, a late row of the position table or the embedding of a rare token, is found
here and nowhere else. So nothing here is shared with the packer (`graph.passes`): the layout is read as
artifacts/README.md states it, and each value is compared with the checkpoint's own.

    weight [out, in] of a product     [panels of 32 outputs, words of 4 bytes along the inputs, 32, values of a word];
                                      the outputs that fill the last panel are zero
    weight [out, in, kernel]          the same, of [out, kernel * in]
    int8                              `weight_scales` float32 [out], `weight_sums` int32 [out]
    everything else                   float32, as it is

For MAX's operations and devices weights are plain, in the dtype of the artifact; `audit_plain` says where each lies.

float32 and bfloat16 (the walked value, rounded to the nearest, ties to even) are equal bit for bit. An int8 value is
within half a step of the walked one, a step being a 127th of its row's largest magnitude; its scale is that step.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from whisper2max.core.held import HeldFile
from whisper2max.parity.audit_plain import by_walked_name
from whisper2max.parity.report import WeightAudit, WeightDifference
from whisper2max.runtime.weights import map_weights

FORMATS = {
    "float32": {"convolutions": "float32", "products": "float32"},
    "bfloat16": {"convolutions": "bfloat16", "products": "bfloat16"},
    "int8": {"convolutions": "bfloat16", "products": "int8"},
}
"""How each dtype stores the weights of convolutions, and those of Linears and the token table."""

STORED = {"float32": np.dtype("<f4"), "bfloat16": np.dtype("<u2"), "int8": np.dtype("i1")}

_PANEL = 32
_AT_A_TIME = 64  # panels: the token table of a large model would need gigabytes as float64
_HALF_A_STEP = 0.5 + 2.0**-15  # with the rounding of a float32 quotient of at most 127 steps


@dataclass
class _Found:
    """Values of one stored tensor that are not as expected: how many, and the first."""

    count: int = 0
    index: tuple[int, ...] = ()
    value: float | None = None
    expected: float | None = None

    def add(self, wrong: np.ndarray, value: np.ndarray, expected: np.ndarray, first_row: int = 0) -> None:
        """Count the places where `wrong`; all three have one shape, whose rows begin at `first_row` of the tensor."""
        places = np.flatnonzero(wrong)
        if places.size and not self.count:
            row, *others = (int(each) for each in np.unravel_index(places[0], wrong.shape))
            self.value, self.expected = float(value[row, *others]), float(expected[row, *others])
            self.index = (first_row + row, *others)
        self.count += places.size


def audit(
    weights: HeldFile,
    dtype: str,
    walked: Mapping[str, np.ndarray],
    source_paths: Mapping[str, str],
    backend: str = "cpu",
) -> WeightAudit:
    """Compare every stored tensor with the walked one.

    Args:
        weights: a weights.safetensors.
        dtype: of the artifact, a key of `FORMATS`.
        walked: tensors of the checkpoint by canonical name, float32; taken one at a time.
        source_paths: names in the checkpoint's tree by canonical name.
        backend: of the artifact; "max" has plain weights.

    Returns:
        What differs; places are indices of the checkpoint's own tensor.
    """
    plain = backend == "max"
    stored = map_weights(weights)
    if plain:
        stored = by_walked_name(stored, walked)
    different = []
    values = 0

    def report(name: str, found: _Found | None) -> None:
        if found is None:
            different.append(WeightDifference(name, source_paths.get(name), 0, (), None, None))
        elif found.count:
            place = found.count, found.index, found.value, found.expected
            different.append(WeightDifference(name, source_paths.get(name), *place))

    for name in walked:
        wanted = np.ascontiguousarray(walked[name], np.float32)
        values += wanted.size
        kept = stored.pop(name, None)
        if not name.endswith(".weight") or wanted.ndim < 2:
            report(name, _plain(kept, wanted))
            continue
        if plain:
            report(name, _bits(kept, wanted, dtype))
            continue
        packed = FORMATS[dtype]["convolutions" if wanted.ndim == 3 else "products"]
        if packed == "int8":
            besides = {f"{name}_{each}": stored.pop(f"{name}_{each}", None) for each in ("scales", "sums")}
            for each, found in zip([name, *besides], _int8(kept, *besides.values(), wanted), strict=True):
                report(each, found)
        else:
            report(name, _exact(kept, wanted, packed))
    for name in stored:
        report(name, None)
    return WeightAudit(len(walked), values, tuple(different))


def _plain(stored: np.ndarray | None, wanted: np.ndarray) -> _Found | None:
    if stored is None or stored.shape != wanted.shape or stored.dtype != np.float32:
        return None
    found = _Found()
    found.add(stored.view(np.uint32) != wanted.view(np.uint32), stored, wanted)
    return found


def _bits(stored: np.ndarray | None, wanted: np.ndarray, dtype: str) -> _Found | None:
    """A plain weight in float32 or bfloat16."""
    if stored is None or stored.shape != wanted.shape or stored.dtype != STORED[dtype]:
        return None
    stored, found = np.ascontiguousarray(stored), _Found()
    bits = _bfloat16_bits(wanted) if dtype == "bfloat16" else wanted.view(np.uint32)
    have = stored if dtype == "bfloat16" else stored.view(np.uint32)
    found.add(have != bits, _as_float32(stored), _as_float32(bits) if dtype == "bfloat16" else wanted)
    return found


def _exact(stored: np.ndarray | None, wanted: np.ndarray, packed: str) -> _Found | None:
    """A weight in float32 or bfloat16."""
    if not _is_packed(stored, wanted, packed):
        return None
    found = _Found()
    for first, got, rows in _blocks(stored, wanted):
        bits = _bfloat16_bits(rows) if packed == "bfloat16" else rows.view(np.uint32)
        have = got if packed == "bfloat16" else got.view(np.uint32)
        found.add(have != bits, _as_float32(got), _as_float32(bits) if packed == "bfloat16" else rows, first)
    return found


def _int8(
    stored: np.ndarray | None, scales: np.ndarray | None, sums: np.ndarray | None, wanted: np.ndarray
) -> tuple[_Found | None, _Found | None, _Found | None]:
    """A weight in int8, its scales and its sums."""
    outputs = wanted.shape[:1]
    has_scales = scales is not None and scales.shape == outputs and scales.dtype == np.float32
    has_sums = sums is not None and sums.shape == outputs and sums.dtype == np.int32
    if not _is_packed(stored, wanted, "int8"):
        return None, _Found() if has_scales else None, _Found() if has_sums else None
    of_weight, of_scales, of_sums = _Found(), _Found(), _Found()
    for first, got, rows in _blocks(stored, wanted):
        largest = np.abs(rows).max(axis=1)
        steps = largest.astype(np.float64) / 127
        values = got * steps[:, None]
        too_far = np.abs(values - rows) > _HALF_A_STEP * steps[:, None]
        of_nothing = (got != 0) & (steps == 0)[:, None]
        of_weight.add(too_far | of_nothing, np.where(of_nothing, got, values), rows, first)
        real = slice(first, min(first + len(rows), *outputs))
        count = real.stop - real.start
        if has_scales:
            expected = (largest / np.float32(127))[:count]
            of_scales.add(scales[real] != expected, scales[real], expected, first)
        if has_sums:
            expected = got.sum(axis=1, dtype=np.int64)[:count]
            of_sums.add(sums[real] != expected, sums[real], expected, first)
    return of_weight, of_scales if has_scales else None, of_sums if has_sums else None


def _is_packed(stored: np.ndarray | None, wanted: np.ndarray, packed: str) -> bool:
    """Whether a stored tensor has the layout of a packed weight [out, in(, kernel)]."""
    per_word = 4 // STORED[packed].itemsize
    inputs = wanted.size // len(wanted)
    shape = -(-len(wanted) // _PANEL), inputs // per_word, _PANEL, per_word
    return stored is not None and stored.dtype == STORED[packed] and stored.shape == shape and not inputs % per_word


def _blocks(stored: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Some panels at a time: number of the first output, stored and wanted values, both [outputs, in(, kernel)].

    Outputs beyond the last are wanted to be zero.
    """
    for panel in range(0, len(stored), _AT_A_TIME):
        panels = stored[panel : panel + _AT_A_TIME]
        got = panels.swapaxes(1, 2).reshape(len(panels) * _PANEL, -1)
        if wanted.ndim == 3:
            got = got.reshape(len(got), wanted.shape[2], wanted.shape[1]).swapaxes(1, 2)
        first = panel * _PANEL
        rows = wanted[first : first + len(got)]
        padded = np.zeros(got.shape, np.float32)
        padded[: len(rows)] = rows
        yield first, np.ascontiguousarray(got), padded


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """float32 -> the bits of the nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _as_float32(values: np.ndarray) -> np.ndarray:
    """float32 as it is; the bits of bfloat16 as float32."""
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values
