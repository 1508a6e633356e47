"""Turn an exception into one paragraph for the person at the terminal and an exit status."""

import errno
import re

from whisper2max.core.errors import Whisper2MaxError
from whisper2max.core.printable import printable

UNUSABLE = 2
FAULT = 70  # EX_SOFTWARE of sysexits.h: not to be taken for a check that failed

_NO_MEMORY = re.compile(
    r"can(no|'|no)?t allocate|could ?n[o']t allocate|failed to (allocate|map segment)|unable to allocate|out of memory"
    r"|bad_alloc|memory exhausted|can't start new thread",
    re.IGNORECASE,
)


def explain(error: BaseException) -> tuple[str, int]:
    """The paragraph and the exit status for an exception that ends a command or the work on one file.

    An exception that is neither ours nor the machine's is a fault of this program, and said to be one, with its place.
    """
    if no_memory := _of_memory(error):
        return (
            f"Memory ran out ({_words(no_memory)}). Close other programs, raise the limit that `ulimit -v` shows, or "
            "take a smaller model, a narrower --dtype or a smaller --batch_size.",
            UNUSABLE,
        )
    if isinstance(error, Whisper2MaxError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno is not None:
        about = "" if error.filename is None else f" for {printable(error.filename)}"
        return (
            f"The system says {error.strerror!r}{about}, in {_place(error)}. See that the file, its directory and its "
            "disk are there and may be used.",
            UNUSABLE,
        )
    return (
        f"This is a fault of whisper2max itself, {_words(error)} in {_place(error)}. Please report it with the command "
        "and what it prints with --debug.",
        FAULT,
    )


def _of_memory(error: BaseException) -> BaseException | None:
    """The exception of a chain of causes that says there is no memory left."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        is_ours = isinstance(error, Whisper2MaxError)
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return error
        if not is_ours and _NO_MEMORY.search(str(error)):
            return error
        # what an error of ours was raised after is its cause only where it says so
        error = error.__cause__ if is_ours or error.__suppress_context__ else error.__cause__ or error.__context__
    return None


def _words(error: BaseException) -> str:
    """Type and message as one line, without the dump that some libraries add to theirs."""
    first = str(error).strip().split("\n")[0]
    return printable(f"{type(error).__name__}: {first}" if first else type(error).__name__)


def _place(error: BaseException) -> str:
    """The innermost line of ours that an exception came through."""
    place, traceback = "a place unknown", error.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if module.split(".")[0] == "whisper2max":
            place = f"{module}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
