"""Medians, and the conditions that a figure is worthless without."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

WARM_UP = 3
READ_BYTES = 1 << 28


def median_seconds(call: Callable[[int], object], runs: int) -> float:
    """Median wall seconds of `call(number of the run)`, after a warm-up that is dropped."""
    seconds = []
    for number in range(WARM_UP + runs):
        started = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[WARM_UP:])


def read_bandwidth() -> float:
    """Bytes per second that all CPUs together read from memory: numpy's maximum of more than any cache holds."""
    cpus = len(os.sched_getaffinity(0))
    parts = np.array_split(np.ones(READ_BYTES // 8, np.int64), cpus)
    with ThreadPoolExecutor(cpus) as pool:
        return READ_BYTES / median_seconds(lambda run: list(pool.map(np.max, parts)), runs=20)


def conditions(packages: Sequence[str] = ("max", "whisper2max")) -> str:
    """Processor, CPUs, versions of the packages, and date on one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    cpus = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.machine()}, {cpus} CPUs, {versions}, {time.strftime('%Y-%m-%d')}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
