"""Format the facts that `whisper2max inspect` shows as lines to read."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from whisper2max.core.printable import printable


def describe(facts: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the facts that `inspection.inspect` gives; the graph is one item of several lines."""
    for name, value in facts.items():
        if name == "graph":
            yield "graph:\n" + "\n".join(printable(line) for line in value.rstrip("\n").split("\n"))
        elif name == "files":
            yield "files:"
            for file, entry in value.items():
                yield f"  {entry['bytes']:>12,}  {entry['sha256'][:16]}  {printable(file)}"
        elif name == "executed" and not value:
            yield f"executed: no, compiled for {printable(facts['target']['name'])}, not executed"
        elif name == "also":
            for target in value:
                ran = "executed" if target["executed"] else "not executed"
                yield f"also: compiled for {printable(target['name'])}, {ran}"
        elif isinstance(value, dict):
            yield f"{printable(name)}:"
            for key, entry in value.items():
                yield f"  {printable(key)}: {_in_one_line(entry)}"
        else:
            yield f"{printable(name)}: {_in_one_line(value)}"


def _in_one_line(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
