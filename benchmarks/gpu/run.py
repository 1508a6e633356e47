"""Measures whisper2max on a GPU, beside PyTorch: python3 benchmarks/gpu/run.py ARTIFACT OUT

ARTIFACT is the folder of that name in what unpack.py made, whose packages are used. Every part is guarded: one that
fails is written down with its traceback, one that ends or hangs its process is too, and the next ones go on. After each
part OUT/results.json and OUT/table.md have what is known. The exit status is 1 where a part failed.
"""

import argparse
import faulthandler
import json
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from gpu.machine import use_kit, with_driver  # noqa: E402
from gpu.parts import Budget, Record, run_parts  # noqa: E402
from gpu.pieces import MANIFEST  # noqa: E402
from gpu.report import report  # noqa: E402
from gpu.supervise import CRASH, RESTART, supervise  # noqa: E402

TABLE = "table.md"
SECONDS = 380
MEMORY_PERCENT = "MODULAR_DEVICE_CONTEXT_MEMORY_MANAGER_SIZE_PERCENT"
SETTINGS = {MEMORY_PERCENT: "40", "MODULAR_TELEMETRY_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false"}
"""MAX would take nine tenths of the memory, and PyTorch runs beside it."""


def main() -> int:
    """0 if no part failed."""
    asked = arguments()
    if asked.inside is not None:
        return inside(asked)
    budget = Budget(asked.seconds)
    kit = asked.artifact.parent / MANIFEST
    packed = json.loads(kit.read_text(encoding="utf-8")) if kit.exists() else {}
    started = time.strftime("%Y-%m-%d %H:%M")
    artifact = packed.get("artifact", asked.artifact.name)
    about = {"artifact": artifact, "commit": packed.get("commit"), "started": started}
    Record(asked.out, rehearsal=asked.rehearse, **about).write()
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--inside"]
    supervise(command, asked.out, budget, say, {**SETTINGS, **with_driver()})
    record = Record.read(asked.out)
    write_table(record)
    print((asked.out / TABLE).read_text(encoding="utf-8"))
    say(f"{len(record.parts)} parts, {len(record.failed)} of them failed, {budget.left:.0f} s left; see {asked.out}")
    return int(bool(record.failed) or not record.parts)


def inside(asked: argparse.Namespace) -> int:
    """What is measured, in one process: 0 at the end, `RESTART` where this process cannot go on."""
    crash = (asked.out / CRASH).open("w")
    faulthandler.enable(crash)
    use_kit(asked.artifact.parent)
    from gpu.measured import Measured

    measured, record = Measured(asked.artifact, asked.rehearse, asked.torch_on_cpu), Record.read(asked.out)
    parts = [part for part in measured.parts() if not asked.only or part.name.startswith(tuple(asked.only))]

    def after() -> None:
        write_table(record)
        measured.there.tidy()

    complete = run_parts(parts, record, Budget(asked.inside), say, after, measured.there.answers)
    return 0 if complete else RESTART


def write_table(record: Record) -> None:
    (record.folder / TABLE).write_text(report(record.about, record.parts), encoding="utf-8")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="folder `artifact` of what was unpacked")
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"what no longer fits is left out; {SECONDS}")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts whose names begin so; default all")
    parser.add_argument("--rehearse", action="store_true", help="on a driver without a GPU: numbers mean nothing")
    parser.add_argument("--torch-on-cpu", action="store_true", help="let PyTorch take part without CUDA")
    parser.add_argument("--inside", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # MAX was seen to abort while it is torn down
