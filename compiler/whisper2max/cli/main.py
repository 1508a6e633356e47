"""The process of the command line: arguments in, an exit status out, and nothing but words in between.

Errors are one paragraph on stderr. The exit status is 0 when all is done, 1 when a check failed or something could not
be done, 2 for wrong usage or unusable input, 70 for a fault of whisper2max, and 128 with its number for a signal.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import typer

from whisper2max.cli.commands import app
from whisper2max.cli.failures import explain
from whisper2max.cli.terminal import say, say_traceback, say_warnings, settle, take_over
from whisper2max.core.printable import printable

# typer's errors derive from its copy of click, whose names are not public
WRONG_USAGE = typer.BadParameter.__base__.__base__
INTERRUPTED, TERMINATED = (128 + number for number in (signal.SIGINT, signal.SIGTERM))


def run() -> int:
    """Do what the command line asks; return the exit status."""
    say_warnings()
    arguments, debug = sys.argv[1:], _debug_stands_in(sys.argv)
    if debug:
        arguments.remove("--debug")
    try:
        # a command gives nothing; typer gives the status of what ended early, such as --help
        status = app(arguments or ["--help"], standalone_mode=False, obj=debug) or 0
    except SystemExit as finished:
        status = finished.code or 0
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except WRONG_USAGE as error:
        say(f"error: {_usage(error)}")
        status = 2
    except BaseException as error:  # the end of the line: a panic of a library in Rust is no Exception
        if debug:
            say_traceback(error)
        paragraph, status = explain(error)
        say(f"error: {paragraph}", keep="\n")
    return settle(status)


def _debug_stands_in(arguments: list[str]) -> bool:
    return "--debug" in arguments[: arguments.index("--")] if "--" in arguments else "--debug" in arguments


def _usage(error: Exception) -> str:
    message = " ".join(printable(error.format_message(), keep="\n\t").split())
    message += "" if message.endswith((".", "?")) else "."
    command = error.ctx.command_path if getattr(error, "ctx", None) else "whisper2max"
    return f"{message} `{command} -h` lists what there is."


def _terminate(*_: object) -> NoReturn:
    """Ends the processes that this one waits for, and then this one in good order."""
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread or a process that ended meanwhile
            for child in children.read_text().split():
                os.kill(int(child), signal.SIGTERM)
    sys.exit(TERMINATED)


def main() -> None:
    """Entry point of the `whisper2max` command."""
    take_over()
    signal.signal(signal.SIGTERM, _terminate)
    status = run()
    # nothing is left to do; to tear MAX 26.7 down takes 0.2 s, and now and then aborts
    sys.stderr.flush()
    os._exit(status)
