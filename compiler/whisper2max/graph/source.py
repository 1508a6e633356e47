"""Generated source on the way to being run: check it, load it, and show it when it fails."""

import traceback
from pathlib import Path
from types import ModuleType

from whisper2max.core.errors import BuildError

_AROUND = 4


def check_source(source: str, name: str) -> None:
    """Raise BuildError with the numbered lines around the fault if `source` is not Python."""
    try:
        compile(source, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise BuildError(
            f"{name} is not valid Python, line {error.lineno}: {error.msg}\n{_numbered(source, error.lineno)}"
        ) from error


def load_source(path: Path) -> ModuleType:
    """Run generated source as a module of its own; no bytecode is written beside it.

    Raises:
        BuildError: running it raised; shows the numbered lines.
    """
    source = path.read_text(encoding="utf-8")
    check_source(source, path.name)
    module = ModuleType("whisper2max_generated_model")
    module.__file__ = str(path)
    with explained(path):
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    return module


class explained:
    """Context in which an exception out of the source at `path` becomes a BuildError that shows it."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "explained":
        return self

    def __exit__(self, kind, error, trace) -> bool:
        if not isinstance(error, Exception) or isinstance(error, BuildError):
            return False
        lines = [frame.lineno for frame in traceback.extract_tb(trace) if frame.filename == str(self.path)]
        if not lines:
            return False
        source = self.path.read_text(encoding="utf-8")
        raise BuildError(
            f"{self.path.name} failed at line {lines[-1]}: {kind.__name__}: {error}\n{_numbered(source, lines[-1])}"
        ) from error


def _numbered(source: str, line: int) -> str:
    lines = source.splitlines()
    first, last = max(1, line - _AROUND), min(len(lines), line + _AROUND)
    return "\n".join(
        f"{'>' if number == line else ' '} {number:4d} | {lines[number - 1]}" for number in range(first, last + 1)
    )
