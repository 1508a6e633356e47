"""Keeps measuring when the process that measures ends or hangs: a new one goes on after the part that did it.

A fault in a kernel ends its process or leaves a device that answers no call of it, and a kernel may never end. The
minutes of a rented machine are worth more than one process.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gpu.parts import Budget, Record

RESTART = 75
"""Exit status of a process whose device does not answer any more."""
MOST_STARTS = 8
CRASH = "crash.txt"
_POLL = 0.2


def supervise(
    command: Sequence[str],
    folder: Path,
    budget: Budget,
    say: Callable[[str], None],
    environment: dict[str, str] | None = None,
) -> None:
    """Run a command, again and again where it does not come to its end.

    Args:
        command: goes on where the record in `folder` ends; the seconds that are left are appended.
        folder: of the record.
        budget: none is started when it is used up, and what runs longer is killed.
        say: told why a process was ended or ended.
    """
    for _ in range(MOST_STARTS):
        if budget.left <= 0:
            say("no time is left")
            return
        process = subprocess.Popen([*command, f"{budget.left:.1f}"], env=environment)
        reason = _watched(process, folder, budget)
        record = Record.read(folder)
        if process.returncode == 0:
            return
        if record.running is None:
            if process.returncode != RESTART:
                say(f"the process ended with status {process.returncode} between two parts")
                return
            continue
        name = record.running["name"]
        record.end(name, "failed", reason=f"{reason or _ended(process.returncode)}{_crash(folder)}")
        say(f"{name}: FAILED: {reason or _ended(process.returncode)}")


def _watched(process: subprocess.Popen, folder: Path, budget: Budget) -> str:
    """Waits for a process; why it was killed, if it was."""
    while process.poll() is None:
        time.sleep(_POLL)
        running = Record.read(folder).running
        if running and time.time() - running["since"] > running["limit"]:
            reason = f"it did not end within {running['limit']:.0f} s"
        elif budget.left < -5:
            reason = "the time was used up before it ended"
        else:
            continue
        process.kill()
        process.wait()
        return reason
    return ""


def _ended(status: int) -> str:
    return f"its process was ended by signal {-status}" if status < 0 else f"its process ended with status {status}"


def _crash(folder: Path) -> str:
    """What Python wrote when it ended."""
    path = folder / CRASH
    text = path.read_text(errors="replace").strip() if path.exists() else ""
    return f"\n{text[-4000:]}" if text else ""
