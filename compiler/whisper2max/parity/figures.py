"""Figures of one value beside its reference, and the row of the report that is made of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from whisper2max.core.errors import ParityError
from whisper2max.parity.taps import LOGITS, Tap

_AT_ONCE = 1 << 20  # values, of which several copies are made in float64


@dataclass(frozen=True)
class Place:
    """Where a value was computed.

    Attributes:
        build: "tapped" graphs give every value, "shipped" ones are those of the artifact, "isolated" blocks
            were fed the reference's own inputs.
        graph: "features", "encoder", "audio", "extend" or "step".
        input: name of the recording.
        case: how a decoder graph was run, such as "1 row" (`runs.py`); None elsewhere.
        row: number of the row in a run of several; None elsewhere.
        position: of the row's first token in the text context; None where values are of frames.
    """

    build: str
    graph: str
    input: str
    case: str | None = None
    row: int | None = None
    position: int | None = None

    @property
    def words(self) -> str:
        """The graph and how it was run: "encoder", "step of 3 rows, reordered, row 1 at 224"."""
        words = self.graph if self.case is None else f"{self.graph} of {self.case}"
        if self.row is not None:
            words += f", row {self.row}"
        return words if self.position is None else f"{words} at {self.position}"


@dataclass(frozen=True)
class Row:
    """One value of one input, compared.

    Attributes:
        path: canonical name of the value, such as "encoder.blocks.3.attn.query" (see taps.py), or "log_mel".
        source_path: its module in the reference's tree, or the first of those inside its kernel; None where the
            reference has no such module.
        build, graph, input, case, row, position: as of `Place`.
        kernel: the shipped kernel that computes it.
        inside: values that exist only inside this kernel, and are judged as this one.
        shape: of the value: [1, frames or tokens, channels].
        max_abs: largest absolute difference over `ref_max_abs` (log_mel: the difference itself).
        rel_rmse: root mean square of the difference over that of the reference.
        ref_max_abs: largest magnitude of the reference.
        ref_min, ref_max: range of the reference.
        torch_max_abs, torch_rel_rmse: the same two errors of torch float32, in these tokens or in all of the
            sequence that they are taken from, whichever is larger; None where there is none.
        variance: smallest and largest variance that a LayerNorm divided by; None elsewhere.
        cosine: for display only.
        kl: mean Kullback-Leibler divergence of the logits in nats; None elsewhere.
        worst: index of the largest difference; tokens count from the beginning of the text context.
        tolerance: the limits {"max_abs", "rel_rmse"}; None where a figure is not judged.
        passed: both figures are within their limits.
    """

    path: str
    source_path: str | None
    build: str
    graph: str
    input: str
    case: str | None
    row: int | None
    position: int | None
    kernel: str
    inside: tuple[str, ...]
    shape: tuple[int, ...]
    max_abs: float
    rel_rmse: float
    ref_max_abs: float
    ref_min: float
    ref_max: float
    torch_max_abs: float | None
    torch_rel_rmse: float | None
    variance: tuple[float, float] | None
    cosine: float
    kl: float | None
    worst: tuple[int, ...]
    tolerance: dict[str, float | None]
    passed: bool

    @property
    def place(self) -> Place:
        """Where it was computed."""
        return Place(self.build, self.graph, self.input, self.case, self.row, self.position)

    @property
    def of_limit(self) -> float:
        """The error as a fraction of its limit; above 1 fails."""
        return of_limit(self.max_abs, self.rel_rmse, self.tolerance)


@dataclass(frozen=True)
class Figures:
    """How far a tensor is from its reference; all are NaN-safe: a value that is not finite counts as infinitely far.

    Attributes:
        max_abs: largest absolute difference over the reference's largest magnitude.
        rel_rmse: root mean square of the difference over that of the reference.
        cosine: of the two tensors; for display.
        worst: index of the largest difference.
    """

    max_abs: float
    rel_rmse: float
    cosine: float
    worst: tuple[int, ...]


def measure(got: np.ndarray, reference: np.ndarray) -> Figures:
    """Figures of `got` against a usable `reference` of the same shape; both of any float dtype."""
    flat_got, flat_reference = got.reshape(-1), reference.reshape(-1)
    scale = energy = along = error = largest = 0.0
    place = 0
    for first in range(0, got.size, _AT_ONCE):
        part = flat_reference[first : first + _AT_ONCE].astype(np.float64, copy=False)
        difference = np.subtract(flat_got[first : first + _AT_ONCE], part, dtype=np.float64)
        magnitude = np.abs(difference)
        at = int(magnitude.argmax())
        if not np.isfinite(magnitude[at]):
            return Figures(float("inf"), float("inf"), float("nan"), _index(first + at, got.shape))
        if magnitude[at] > largest:
            largest, place = float(magnitude[at]), first + at
        scale = max(scale, abs(float(part.min())), abs(float(part.max())))
        energy += _dot(part, part)
        along += _dot(part, difference)
        error += _dot(difference, difference)
    # of (r . g) and |g| from the difference d = g - r, so that no third array is made
    norm = energy + 2 * along + error
    cosine = (energy + along) / np.sqrt(energy * norm) if norm > 0 else 0.0
    return Figures(largest / scale, float(np.sqrt(error / energy)), float(cosine), _index(place, got.shape))


def require_usable(path: str, input: str, got: np.ndarray, reference: np.ndarray) -> None:
    """Raise ParityError where a comparison would prove nothing.

    Shapes differ, or the reference is empty, constant or not finite.
    """
    if got.shape != reference.shape:
        raise ParityError(
            f"{path} on {input}: shape {list(got.shape)}, but the reference gives {list(reference.shape)}"
        )
    if not reference.size or not np.isfinite(reference).all() or reference.min() == reference.max():
        raise ParityError(f"{path} on {input}: the reference is empty, constant or not finite, it proves nothing")


def compare(
    tap: Tap,
    place: Place,
    *,
    got: np.ndarray,
    reference: np.ndarray,
    limits: dict[str, float | None],
    positions: np.ndarray | None = None,
    source_path: str | None = None,
    torch: Figures | None = None,
    variance: tuple[float, float] | None = None,
    absolute: bool = False,
) -> Row:
    """Judge `got` by a `reference` of the same shape; the other arguments are fields of the row.

    Args:
        limits: "max_abs" and "rel_rmse"; None where a figure is not judged.
        positions: of the tokens in the text context; None where values are of frames.
        torch: figures of torch float32 against the same reference.
        absolute: whether max_abs is the difference itself instead of a fraction of the largest value.

    Raises:
        ParityError: there is nothing to compare: shapes differ, or the reference is empty, constant or not finite.
    """
    require_usable(tap.path, place.input, got, reference)
    figures = measure(got, reference)
    lowest, highest = float(reference.min()), float(reference.max())
    largest = max(abs(lowest), abs(highest))
    max_abs = figures.max_abs * largest if absolute else figures.max_abs
    first, *token, channel = figures.worst
    worst = figures.worst if positions is None else (first, int(positions[token[0]]), channel)
    return Row(
        path=tap.path,
        source_path=source_path,
        **vars(place),
        kernel=tap.kernel,
        inside=tap.inside,
        shape=got.shape,
        max_abs=max_abs,
        rel_rmse=figures.rel_rmse,
        ref_max_abs=largest,
        ref_min=lowest,
        ref_max=highest,
        torch_max_abs=torch.max_abs if torch else None,
        torch_rel_rmse=torch.rel_rmse if torch else None,
        variance=variance,
        cosine=figures.cosine,
        kl=divergence(got, reference) if tap.path == LOGITS else None,
        worst=worst,
        tolerance=limits,
        passed=of_limit(max_abs, figures.rel_rmse, limits) <= 1,
    )


def of_limit(max_abs: float | None, rel_rmse: float | None, limits: Mapping[str, float | None]) -> float:
    """An error as a fraction of its limit, the larger of both figures; above 1 fails.

    An error that is None or not finite is infinitely far from any limit.
    """
    judged = [(max_abs, limits["max_abs"]), (rel_rmse, limits["rel_rmse"])]
    return max((_fraction(value, limit) for value, limit in judged if limit is not None), default=0.0)


def divergence(got: np.ndarray, reference: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence in nats of softmax(got) from softmax(reference), logits [..., n_vocab]."""
    expected, actual = _log_softmax(reference), _log_softmax(got)
    return float(np.mean(np.sum(np.exp(expected) * (expected - actual), axis=-1)))


def _fraction(value: float | None, limit: float) -> float:
    if value is None or not math.isfinite(value):
        return math.inf
    if value == 0:
        return 0.0
    return value / limit if limit else math.inf


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _index(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.unravel_index(place, shape))


def _dot(left: np.ndarray, right: np.ndarray) -> float:
    # not np.dot: BLAS would start threads of its own, which fight with those of torch and MAX
    return float(np.einsum("i,i->", left.reshape(-1), right.reshape(-1)))
