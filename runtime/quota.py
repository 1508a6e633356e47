"""How many CPUs the control groups of this process grant it.

A container that may use 2 CPUs of 64 sees all 64, and is stopped for the rest of each period once its threads have
used up what it may. So more threads than that only make each other wait.

A control group limits everything below it, so the smallest quota between the process's own group and the topmost one
that is visible counts. Files, as the kernel documents them in cgroup-v2.rst and sched-bwc.rst:

    /proc/self/cgroup      the group of the process in every hierarchy: "0::/path", in version 1 "3:cpu,cpuacct:/path"
    /proc/self/mountinfo   where hierarchies are mounted, and which of their groups is seen there
    cpu.max                version 2: "quota period" in microseconds, or "max period"
    cpu.cfs_quota_us       version 1: microseconds, or -1; with cpu.cfs_period_us
"""

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path, PurePosixPath

_ESCAPED = re.compile(rb"\\([0-7]{3})")


def _read(path: Path) -> str:
    """Text of a file, "" if it cannot be read: then it says nothing about a quota."""
    try:
        return os.fsdecode(path.read_bytes())
    except (OSError, ValueError):  # ValueError: a path with a NUL
        return ""


def _unescaped(field: str) -> str:
    """A path of mountinfo, where a space is written \\040."""
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), os.fsencode(field)))


def _groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """("cgroup2" or "cgroup", path of the process's group) of the hierarchies that can hold a quota of CPU time."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and number == "0" and controllers == "":
            yield "cgroup2", PurePosixPath(path)
        elif colon and "cpu" in controllers.split(","):
            yield "cgroup", PurePosixPath(path)


def _mounts(root: Path) -> Iterator[tuple[str, PurePosixPath, Path]]:
    """("cgroup2" or "cgroup", group that is seen there, folder) of every place where one of these is mounted."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "cpu" in kind[2].split(",")):
            yield kind[0], PurePosixPath(_unescaped(fields[3])), root / _unescaped(fields[4]).lstrip("/")


def _folders(root: Path) -> Iterator[Path]:
    """The folder of the process's group and those of all groups around it, as far as they are mounted."""
    mounts = list(_mounts(root))
    for kind, group in _groups(root):
        for kind_there, seen, folder in mounts:
            if kind_there == kind and group.is_relative_to(seen) and ".." not in group.parts:
                below = group.relative_to(seen)
                yield from (folder / each for each in (below, *below.parents))


def _numbers(text: str) -> list[int] | None:
    """The positive numbers of a line; None if anything else is there."""
    words = text.split()
    return [int(word) for word in words] if all(re.fullmatch("[0-9]{1,18}", word) for word in words) else None


def _limit(folder: Path) -> Fraction | None:
    """CPUs that a group may use; None without a quota, or if its files say nothing that can be understood."""
    texts = [_read(folder / "cpu.max")]
    texts.append(f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}")
    for text in texts:
        match _numbers(text):
            case [quota, period] if quota > 0 and period > 0:
                return Fraction(quota, period)
    return None


def quota_of_cpus(root: Path = Path("/")) -> int | None:
    """The least CPU quota of this process's control groups, in CPUs rounded up; None if there is none.

    Args:
        root: where /proc and the mounts are.
    """
    limits = [limit for folder in _folders(root) if (limit := _limit(folder)) is not None]
    return ceil(min(limits)) if limits else None
