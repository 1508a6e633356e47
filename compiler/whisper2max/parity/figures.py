"""Figures of one tensor against its reference."""

from dataclasses import dataclass

import numpy as np

from whisper2max.core.errors import ParityError


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
    reference = reference.astype(np.float64, copy=False)
    difference = np.subtract(got, reference, dtype=np.float64)
    magnitude = np.abs(difference)
    place = int(magnitude.argmax())
    worst = tuple(int(index) for index in np.unravel_index(place, got.shape))
    scale = _largest(reference)
    energy = _dot(reference, reference)
    if not np.isfinite(magnitude.flat[place]):
        return Figures(float("inf"), float("inf"), float("nan"), worst)
    error = _dot(difference, difference)
    # of (r . g) and |g| from the difference d = g - r, so that no third array is made
    along = energy + _dot(reference, difference)
    norm = energy + 2 * (along - energy) + error
    cosine = along / np.sqrt(energy * norm) if norm > 0 else 0.0
    return Figures(float(magnitude.flat[place] / scale), float(np.sqrt(error / energy)), float(cosine), worst)


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


def divergence(got: np.ndarray, reference: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence in nats of softmax(got) from softmax(reference), logits [..., n_vocab]."""
    expected, actual = _log_softmax(reference), _log_softmax(got)
    return float(np.mean(np.sum(np.exp(expected) * (expected - actual), axis=-1)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _largest(values: np.ndarray) -> float:
    return max(abs(float(values.min())), abs(float(values.max())))


def _dot(left: np.ndarray, right: np.ndarray) -> float:
    # not np.dot: BLAS would start threads of its own, which fight with those of torch and MAX
    return float(np.einsum("i,i->", left.reshape(-1), right.reshape(-1)))
