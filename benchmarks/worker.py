"""One peer, one figure, one process: loads, warms up, measures, and writes one line of JSON to standard output.

{"value": .., "texts": {..}, "tokens": [..], "memory": MB} or {"skipped": why}. `prepare` in the place of a figure
writes the peer's files. Whatever else is printed goes to standard error.
"""

import argparse
import json
import os
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer")
    parser.add_argument("figure")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--artifact", type=Path)
    asked = parser.parse_args()
    # Libraries that print, from C too, must not write between the lines of the result.
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.threads])
    print(json.dumps(answer(asked)), file=result, flush=True)


def answer(asked: argparse.Namespace) -> dict:
    """What the peer gives for the figure."""
    from figures import FIGURES
    from peers import peer_class, variant
    from peers.base import NotOffered

    kind, of_kind = peer_class(asked.peer), variant(asked.peer, asked.artifact)
    if asked.figure == "prepare":
        kind.prepare(asked.models, of_kind)
        return {}
    try:
        measured = FIGURES[asked.figure].measure(kind(asked.models, asked.threads, of_kind), asked.audio)
    except NotOffered as reason:
        return {"skipped": str(reason)}
    return {**measured, "memory": peak_memory()}


def peak_memory() -> float:
    """Largest resident size of this process in MB of 10^6 bytes.

    From the kernel's high-water mark: getrusage would begin with that of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
