"""Rehearsals: what runs on a GPU runs where there is none, on a driver that moves data and only looks at kernels.

`fake_cuda.c` says what its log holds. What comes out of a kernel is whatever lay there, mostly zeros.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LIBRARIES = {"fake_cuda.c": "libcuda.so.1", "fake_nvml.c": "libnvidia-ml.so.1"}
BEFORE = "before the first mark"

_LINE = re.compile(
    r"(?P<kind>(?:bad )?(?:launch|copy HtoD|copy DtoH|copy DtoD|memset)|alloc|synchronize|graph launch|unsupported)"
    r"(?: (?P<size>\d+)(?!\S)| (?P<name>\S+))?(?P<rest>.*)"
)


@dataclass(frozen=True)
class Event:
    """What a driver was asked for.

    Attributes:
        kind: "launch", "copy HtoD" and the like: the words at the beginning of its line.
        name: of a kernel, or of what is unsupported.
        size: bytes that were copied, set or taken.
        line: all of it.
    """

    kind: str
    name: str
    size: int
    line: str


@dataclass(frozen=True)
class Rehearsal:
    """What a script did.

    Attributes:
        output: what it printed.
        parts: what the driver was asked for after each mark, in order; marks have names of their own.
    """

    output: str
    parts: dict[str, list[Event]]


def build_driver(folder: Path) -> Path:
    """Compiles the driver and the library of NVIDIA that MAX wants beside it.

    Raises:
        FileNotFoundError: there is no gcc.
    """
    for source, library in LIBRARIES.items():
        command = ["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", folder / library, HERE / source, "-lpthread"]
        subprocess.run(command, check=True)
    return folder


def rehearse(script: str, driver: Path, log: Path, *arguments: str) -> Rehearsal:
    """Runs a script in a process that has that driver and no other.

    Args:
        script: Python; it may import from this folder, and divides its log by `mark`.
        driver: what `build_driver` gave.
        log: a file that is not there yet.
        arguments: of the script.
    """
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(driver),
        "PYTHONPATH": str(HERE),
        "FAKE_LOG": str(log),
        "MODULAR_DEVICE_CONTEXT_MEMORY_MANAGER_SIZE_PERCENT": "20",  # of memory that is only promised
    }
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, env=environment, cwd=log.parent, capture_output=True, text=True, timeout=900)
    text = log.read_text() if log.exists() else ""
    refused = "".join(f"\n{event.line}" for event in events(text) if event.kind.startswith("bad"))
    assert result.returncode == 0, f"exit status {result.returncode}{refused}\n{result.stderr[-6000:]}"
    return Rehearsal(result.stdout, divided(text))


def mark(name: str) -> None:
    """To be called by a script: what the driver is asked for from now on belongs to this part."""
    with open(os.environ["FAKE_LOG"], "a") as file:
        file.write(f"=== {name}\n")


def divided(log: str) -> dict[str, list[Event]]:
    """The events of each part by its name."""
    first, *others = re.split(r"^=== (.*)\n", log, flags=re.MULTILINE)
    names, texts = others[::2], others[1::2]
    if len(set(names)) < len(names):
        raise ValueError(f"two parts of a log have one name: {', '.join(names)}")
    return {BEFORE: events(first)} | {name: events(text) for name, text in zip(names, texts, strict=True)}


def events(log: str) -> list[Event]:
    """What the lines of a log say, marks left out.

    Raises:
        ValueError: a line says something that is not known.
    """
    return [_event(line) for line in log.splitlines() if not line.startswith("=== ")]


def _event(line: str) -> Event:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"no event of a driver: {line}")
    return Event(match["kind"], match["name"] or "", int(match["size"] or 0), line)


def count(of: Iterable[Event], *kinds: str) -> int:
    """How many events are of these kinds."""
    return sum(event.kind in kinds for event in of)


def size(of: Iterable[Event], *kinds: str) -> int:
    """How many bytes the events of these kinds moved."""
    return sum(event.size for event in of if event.kind in kinds)
