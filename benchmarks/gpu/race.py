"""Contenders timed in turn: A, B, C, A, B, C, .. so that what the machine does meanwhile meets all of them."""

import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

WARM_UP = 3
LEAST_RUNS = 5


def nothing() -> None:
    """Where there is nothing to do."""


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
        call: starts the work.
        wait: returns when all work is done.
        before: called before each run, and not timed.
        close: gives back what was kept.
    """

    call: Callable[[], object]
    wait: Callable[[], object] = nothing
    before: Callable[[], object] = nothing
    close: Callable[[], object] = nothing


Makers = Mapping[str, Callable[[], Contender]]


def race(
    makers: Makers,
    runs: int,
    seconds: float,
    least: int = LEAST_RUNS,
    warm_up: int = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Seconds of every contender.

    Args:
        makers: by name; one that raises, then or while it runs, is noted and left out.
        runs: of each, after the warm-up.
        seconds: of all together; one that had its share sits out, once it had the least.
        least: runs of each.
        warm_up: runs that are dropped.

    Returns:
        "medians", "lowest" and "values" by name; "failed": tracebacks by name.
    """
    ready: dict[str, Contender] = {}
    values: dict[str, list[float]] = {}
    failed: dict[str, str] = {}

    def guarded(name: str, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception:
            failed[name] = traceback.format_exc()

    def make(name: str) -> None:
        ready[name] = makers[name]()
        for _ in range(warm_up):
            once(ready[name], clock)

    try:
        for name in makers:
            guarded(name, lambda name=name: make(name))
        values = {name: [] for name in makers if name not in failed}
        for number in range(runs):
            for name, taken in values.items():
                sits_out = number >= least and sum(taken) > seconds / len(makers)
                if name not in failed and not sits_out:
                    guarded(name, lambda name=name, taken=taken: taken.append(once(ready[name], clock)))
    finally:
        for name, contender in ready.items():
            guarded(name, contender.close)
    values = {name: taken for name, taken in values.items() if name not in failed}
    return {
        "medians": {name: statistics.median(taken) for name, taken in values.items()},
        "lowest": {name: min(taken) for name, taken in values.items()},
        "values": values,
        "failed": failed,
    }


def once(contender: Contender, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one run."""
    contender.before()
    contender.wait()
    started = clock()
    contender.call()
    contender.wait()
    return clock() - started
