"""Parts of a measurement: each guarded, each written down as soon as it ends, and none begun that no longer fits."""

import json
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = "results.json"


class NotHere(Exception):
    """What a part needs is not on this machine; the message says what."""


@dataclass(frozen=True)
class Part:
    """One thing to find out.

    Attributes:
        name: of its result.
        seconds: what it may need, on a GPU; the part is left out where less is left.
        run: gives the result, of which JSON can be made.
    """

    name: str
    seconds: float
    run: Callable[[], Any]

    @property
    def limit(self) -> float:
        """Seconds after which it hangs: the first part also imports and loads what it needs."""
        return 60 + 3 * self.seconds


class Record:
    """What was found out so far, kept in a file that is whole at any time.

    Attributes:
        about: of the whole run.
        parts: results by name: "status" is done, failed or skipped; then "result", or "reason".
        running: the part under way: its "name", "since" in seconds of the system's clock, and "limit"; else None.
    """

    def __init__(self, folder: Path, **about: Any):
        self.folder, self.about = folder, about
        self.parts: dict[str, dict[str, Any]] = {}
        self.running: dict[str, Any] | None = None

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """The one that lies in a folder."""
        document = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        record = cls(folder, **document["about"])
        record.parts, record.running = document["parts"], document["running"]
        return record

    def write(self) -> None:
        """Into `results.json` of the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{RESULTS}.partial"
        document = {"about": self.about, "running": self.running, "parts": self.parts}
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.folder / RESULTS)

    def begin(self, part: Part) -> None:
        """Note that a part is under way."""
        self.running = {"name": part.name, "since": time.time(), "limit": part.limit}
        self.write()

    def end(self, name: str, status: str, **of_it: Any) -> None:
        """Note how a part ended."""
        seconds = time.time() - self.running["since"] if self.running else 0.0
        self.parts[name] = {"status": status, "seconds": round(seconds, 2), **of_it}
        self.running = None
        self.write()

    @property
    def failed(self) -> list[str]:
        """Names of the parts that failed."""
        return [name for name, part in self.parts.items() if part["status"] == "failed"]


class Budget:
    """Seconds that are left of so many."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._clock, self._end = clock, clock() + seconds

    @property
    def left(self) -> float:
        return self._end - self._clock()


def run_parts(
    parts: Sequence[Part],
    record: Record,
    budget: Budget,
    say: Callable[[str], None],
    after: Callable[[], None] = lambda: None,
    healthy: Callable[[], bool] = lambda: True,
) -> bool:
    """Run the parts that the record does not have, in order.

    Args:
        parts: one that raises is noted with its traceback, or as skipped if it is `NotHere`, and the next one follows.
        record: is written after every part.
        budget: what no longer fits is noted as skipped.
        say: told how each part ended.
        after: called after each part, to make room.
        healthy: asked after a part that failed: whether the next one can be run by this process.

    Returns:
        Whether all were run or skipped; False where this process cannot go on.
    """
    for part in parts:
        if part.name in record.parts:
            continue
        if part.seconds > budget.left:
            reason = f"it may need {part.seconds:.0f} s, and {max(budget.left, 0):.0f} s are left"
            record.end(part.name, "skipped", reason=reason)
            say(f"{part.name}: skipped, {reason}")
            continue
        record.begin(part)
        try:
            result = part.run()
            json.dumps(result)
        except NotHere as reason:
            record.end(part.name, "skipped", reason=str(reason))
            say(f"{part.name}: skipped, {reason}")
        except Exception as error:
            record.end(part.name, "failed", reason=traceback.format_exc())
            say(f"{part.name}: FAILED: {type(error).__name__}: {str(error)[:500]}")
            if not healthy():
                say("the device does not answer any more")
                return False
        else:
            record.end(part.name, "done", result=result)
            say(f"{part.name}: {record.parts[part.name]['seconds']:.1f} s")
        after()
    return True
