"""The two streams to the terminal: results on standard output, everything else on standard error.

Text from outside is shown with its control characters escaped. A stream that cannot be written to never ends the work:
what happened is kept, and `settle` makes it the exit status.
"""

import errno
import io
import logging
import os
import select
import sys
import traceback
import warnings

from whisper2max.core.printable import printable

READER_LEFT = 128 + 13  # as a shell reports a program that SIGPIPE ended
# Joiners and marks of direction are letters' company in many scripts, and line breaks may be part of what was said.
PART_OF_TEXT = "\n\t\u00ad\u200c\u200d\u200e\u200f"


class StandardStream(io.RawIOBase):
    """A standard stream that never raises.

    Attributes:
        failure: the first error of writing; nothing is written after it.
        may_break: whether it matters nothing that the reader went away.
    """

    def __init__(self, descriptor: int, closed_by_parent: bool):
        self.failure: OSError | None = None
        self.may_break = False
        self._descriptor = descriptor
        self._closed_by_parent = closed_by_parent

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, content) -> int:
        if self.failure is None:
            try:
                return self._write(content)
            except OSError as error:
                self.failure = error
        return len(content)

    def _write(self, content) -> int:
        if self._closed_by_parent:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        while True:
            try:
                return os.write(self._descriptor, content)
            except BlockingIOError:  # the parent shares a pipe that does not wait
                select.select([], [self._descriptor], [])


def take_over() -> None:
    """Puts streams that never raise in the place of this process's standard output and error.

    Descriptors that the parent closed are taken by /dev/null, so that no file of ours is opened in their place and
    written to by accident. What the encoding of a stream lacks is replaced.
    """
    missing = [stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)]
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _watched(1, sys.stdout, missing[1], "replace")
    sys.stderr = _watched(2, sys.stderr, missing[2], "backslashreplace")


def _watched(descriptor: int, stream: io.TextIOBase | None, closed: bool, errors: str) -> io.TextIOWrapper:
    encoding = "utf-8" if stream is None else stream.encoding
    buffer = io.BufferedWriter(StandardStream(descriptor, closed))
    return io.TextIOWrapper(buffer, encoding=encoding, errors=errors, line_buffering=True)


def show(text: str, keep: str = "\n", in_file: bool = False) -> bool:
    """Writes a result to standard output, as a line of its own.

    Args:
        text: what would move a terminal is escaped.
        keep: control characters to leave as they are.
        in_file: a file holds it too, so that a reader who goes away misses nothing.

    Returns:
        Whether anybody may still read what comes next.
    """
    if stream := _standard(sys.stdout):
        stream.may_break = in_file
    print(printable(text, keep), flush=True)
    return stream is None or stream.failure is None


def show_text(text: str, in_file: bool = False) -> bool:
    """Writes the text of a recording to standard output; arguments and result as for `show`."""
    return show(text, PART_OF_TEXT, in_file)


def say(message: object, keep: str = "") -> None:
    """Writes a line of progress, a warning, an error, or a table of rich, to standard error.

    Args:
        message: text, whose control characters are escaped, or something that rich prints.
        keep: control characters to leave as they are.
    """
    if isinstance(message, str):
        print(printable(message, keep), file=sys.stderr, flush=True)
        return
    from rich.console import Console  # a transcription has no tables

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with console.capture() as drawn:
        console.print(message)
    print(drawn.get(), end="", file=sys.stderr, flush=True)


def say_traceback(error: BaseException) -> None:
    """Writes Python's account of an exception to standard error."""
    say("".join(traceback.format_exception(error)).rstrip("\n"), keep="\n")


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


def say_warnings() -> None:
    """Lets Python's warnings, and what our modules log, be said like everything else."""
    warnings.showwarning = lambda message, *rest: say(f"warning: {message}")
    logging.getLogger("whisper2max").handlers = [_Said(logging.WARNING)]


def settle(status: int) -> int:
    """The exit status when all is done: another one where standard output did not take what was shown."""
    sys.stdout.flush()
    stream = _standard(sys.stdout)
    failure = stream and stream.failure
    if isinstance(failure, BrokenPipeError):
        return status if stream.may_break else status or READER_LEFT
    if failure:
        say(
            f"error: Standard output cannot be written ({failure.strerror}), so what was to be shown is lost; "
            "send it to another place. Files that were asked for are complete."
        )
        return status or 1
    return status


def _standard(stream: object) -> StandardStream | None:
    """The stream below, where `take_over` put it."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, StandardStream) else None
