"""The fused step beside unjoined kernels on a busy machine: python benchmarks/kernels/busy.py ARTIFACT ..

`step` goes through each block with all threads, which wait for each other. `extend` of one token does the same with one
kernel for every product, so that threads meet only at the end of a kernel. Both run in turns, with the machine for
themselves and beside 1, 2 and 4 processes that never rest. Means come first: under load they say how long many steps
take.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import whisper2max
from whisper2max.runtime.protocol import Rows

sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import conditions  # noqa: E402

POSITION = 100
ROUNDS = 40
IN_A_ROW = 5
"""Calls of one kind before the other's turn, as decoding makes them."""


def calls(artifact: Path, rows: int) -> dict[str, Callable[[], object]]:
    """A step and an extend of one token, at the same position of so many rows that hear the same audio."""
    engine = whisper2max.load(artifact).engine
    dims = engine.dims
    session = engine.session(rows, 1)
    session.hear(np.zeros((dims.n_mels, dims.n_frames), np.float32), 0)
    where = Rows.apart([0] * rows, [0] * rows, dims.n_text_ctx)
    last = np.full((rows, 1), POSITION - 1)
    session.extend(np.zeros((rows, POSITION), np.int64), where, last)
    where = Rows.apart([POSITION] * rows, [0] * rows, dims.n_text_ctx)
    tokens, picked = np.zeros(rows, np.int64), np.zeros((rows, 1), np.int64)
    return {
        "extend": lambda: session.extend(tokens[:, None], where, picked),
        "step": lambda: session.step(tokens, where),
    }


def milliseconds(call: Callable[[], object]) -> list[float]:
    """Of each of a few calls in a row."""
    taken = []
    for _ in range(IN_A_ROW):
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1e3)
    return taken


def measure(artifact: Path, rows: int) -> None:
    both = calls(artifact, rows)
    for call in both.values():
        milliseconds(call)
    for busy in (0, 1, 2, 4):
        with ExitStack() as stack:
            for _ in range(busy):
                neighbour = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                stack.callback(neighbour.kill)
            taken: dict[str, list[float]] = {name: [] for name in both}
            for _ in range(ROUNDS):
                for name, call in both.items():
                    taken[name] += milliseconds(call)
        extend, step = statistics.mean(taken["extend"]), statistics.mean(taken["step"])
        print(
            f"{artifact.name}, {rows} rows, {busy} busy processes: step {step:.2f} ms (median "
            f"{statistics.median(taken['step']):.2f}), unjoined {extend:.2f} ms (median "
            f"{statistics.median(taken['extend']):.2f}), ratio {step / extend:.2f}"
        )


if __name__ == "__main__":
    print(conditions())
    for path in sys.argv[1:]:
        for rows in (1, 5):
            measure(Path(path), rows)
