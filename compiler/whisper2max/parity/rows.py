"""One row of the report from one tensor and its reference."""

import numpy as np

from whisper2max.parity.figures import Figures, divergence, measure, require_usable
from whisper2max.parity.report import Row
from whisper2max.parity.taps import LOGITS


def compare(
    path: str,
    *,
    build: str,
    graph: str,
    input: str,
    got: np.ndarray,
    reference: np.ndarray,
    limits: dict[str, float | None],
    source_path: str | None = None,
    position: int | None = None,
    torch: Figures | None = None,
    variance: tuple[float, float] | None = None,
    absolute: bool = False,
) -> Row:
    """Judge `got` by a `reference` of the same shape; the other arguments are fields of the row.

    Args:
        limits: "max_abs" and "rel_rmse"; None where a figure is not judged.
        torch: figures of torch float32 against the same reference.
        absolute: whether max_abs is the difference itself instead of a fraction of the largest value.

    Raises:
        ParityError: there is nothing to compare: shapes differ, or the reference is empty, constant or not finite.
    """
    require_usable(path, input, got, reference)
    figures = measure(got, reference)
    lowest, highest = float(reference.min()), float(reference.max())
    largest = max(abs(lowest), abs(highest))
    max_abs = figures.max_abs * largest if absolute else figures.max_abs
    return Row(
        path=path,
        source_path=source_path,
        build=build,
        graph=graph,
        position=position,
        input=input,
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
        kl=divergence(got, reference) if path == LOGITS else None,
        worst=figures.worst,
        tolerance=limits,
        passed=within(max_abs, figures.rel_rmse, limits),
    )


def within(max_abs: float, rel_rmse: float, limits: dict[str, float | None]) -> bool:
    """Whether both figures keep their limits; a figure that is no number keeps none."""
    judged = [(max_abs, limits["max_abs"]), (rel_rmse, limits["rel_rmse"])]
    return all(value <= limit for value, limit in judged if limit is not None)
