"""What a comparison found, as data."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from whisper2max.errors import ParityError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One tensor of one input, compared.

    Attributes:
        path: canonical name of what was compared, such as "encoder.ln_post" or "step.logits".
        source_path: its module in the reference's tree; None where the reference has no such module.
        input: name of the audio.
        shape: of the tensor.
        max_abs: largest absolute difference, relative to `ref_max_abs` (log-mel: absolute).
        rel_rmse: root mean square of the difference over that of the reference.
        ref_max_abs: largest magnitude of the reference.
        tolerance: the limits {"max_abs", "rel_rmse"}; None where a figure is not judged.
        passed: both figures are within their limits and finite.
    """

    path: str
    source_path: str | None
    input: str
    shape: tuple[int, ...]
    max_abs: float
    rel_rmse: float
    ref_max_abs: float
    tolerance: dict[str, float | None]
    passed: bool


def compare(
    path: str,
    source_path: str | None,
    input: str,
    got: np.ndarray,
    reference: np.ndarray,
    max_abs: float,
    rel_rmse: float | None,
    absolute: bool = False,
) -> Row:
    """Judge `got` against `reference`.

    Raises:
        ParityError: there is nothing to compare: shapes differ, or the reference is empty, constant
            or not finite.
    """
    if got.shape != reference.shape:
        raise ParityError(
            f"{path} on {input}: shape {list(got.shape)}, but the reference gives {list(reference.shape)}"
        )
    if not reference.size or not np.isfinite(reference).all() or reference.min() == reference.max():
        raise ParityError(f"{path} on {input}: the reference is empty, constant or not finite, it proves nothing")
    difference = got.astype(np.float64) - reference
    ref_max_abs = float(np.abs(reference).max())
    worst = float(np.abs(difference).max()) / (1.0 if absolute else ref_max_abs)
    rmse = float(np.sqrt(np.mean(difference**2) / np.mean(reference.astype(np.float64) ** 2)))
    passed = worst <= max_abs and (rel_rmse is None or rmse <= rel_rmse)
    limits = {"max_abs": max_abs, "rel_rmse": rel_rmse}
    return Row(path, source_path, input, got.shape, worst, rmse, ref_max_abs, limits, passed)


@dataclass(frozen=True)
class TokenRow:
    """Tokens of one input, compared.

    Attributes:
        input: name of the audio.
        kind: "prompt" and "step" are teacher-forced through that graph, "free" is free-running greedy.
        compared: tokens of the reference.
        equal: how many of them the compiled graphs gave at the same place.
        first_different: index of the first token that differs, is missing or is too many; None if all are equal.
    """

    input: str
    kind: str
    compared: int
    equal: int
    first_different: int | None


@dataclass(frozen=True)
class ParityReport:
    """Outcome of comparing compiled graphs with a reference.

    Attributes:
        dtype: of the weights, which chose the tolerances.
        reference: what was compared with.
        inputs: names of the audio.
        rows: tensors in data order, input by input.
        tokens: greedy and teacher-forced tokens.
    """

    dtype: str
    reference: str
    inputs: tuple[str, ...]
    rows: tuple[Row, ...]
    tokens: tuple[TokenRow, ...]

    @property
    def first_divergent(self) -> Row | None:
        """The first row out of tolerance in data order."""
        return next((row for row in self.rows if not row.passed), None)

    @property
    def passed(self) -> bool:
        """Everything was compared, within tolerance, and every token is equal."""
        complete = bool(self.rows) and bool(self.tokens) and all(row.compared for row in self.tokens)
        return complete and self.first_divergent is None and all(row.first_different is None for row in self.tokens)

    def worst(self, path: str) -> Row:
        """The row of `path` that is closest to its limit."""
        return max((row for row in self.rows if row.path == path), key=lambda row: row.max_abs)

    def summary(self) -> dict[str, Any]:
        """The part that the manifest keeps: verdict, worst figure per path, token agreement."""
        return {
            "passed": self.passed,
            "reference": self.reference,
            "inputs": list(self.inputs),
            "worst": {
                path: {"max_abs": self.worst(path).max_abs, "rel_rmse": self.worst(path).rel_rmse}
                for path in dict.fromkeys(row.path for row in self.rows)
            },
            "tokens": self._token_counts(),
        }

    def to_dict(self) -> dict[str, Any]:
        """parity.json; its schema is described in docs/parity.md."""
        logits = [row for row in self.rows if row.path.endswith("logits")]
        divergent = self.first_divergent
        return {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "dtype": self.dtype,
            "reference": self.reference,
            "inputs": list(self.inputs),
            "layers": [asdict(row) for row in self.rows if row not in logits],
            "logits": [asdict(row) for row in logits],
            "tokens": {**self._token_counts(), "rows": [asdict(row) for row in self.tokens]},
            "first_divergent": asdict(divergent) if divergent else None,
        }

    def explanation(self) -> str:
        """One paragraph on why the comparison failed."""
        row = self.first_divergent
        if row:
            return (
                f"{row.path} is the first that diverges from {self.reference}, on {row.input}: max-abs "
                f"{row.max_abs:.2e} of the reference's largest value (limit {row.tolerance['max_abs']:.0e}), "
                f"relative RMSE {row.rel_rmse:.2e}."
            )
        wrong = [row for row in self.tokens if row.first_different is not None]
        if wrong:
            return (
                f"tokens differ from {self.reference} on {wrong[0].input} ({wrong[0].kind}): {wrong[0].equal} of "
                f"{wrong[0].compared} equal, first at index {wrong[0].first_different}."
            )
        return "nothing was compared." if not self.passed else "everything is within tolerance."

    def _token_counts(self) -> dict[str, int]:
        return {
            "compared": sum(row.compared for row in self.tokens),
            "equal": sum(row.equal for row in self.tokens),
        }
