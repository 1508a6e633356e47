"""The command under limits: 4 GiB of memory and some seconds, each time in a process of its own.

A worker imports what the commands need once, and forks a child for every case, so that a case costs the milliseconds
of a fork and not the seconds of the imports. The worker starts no MAX and no threads, which do not survive a fork.
"""

import atexit
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ENVIRONMENT = dict(os.environ)
MEMORY = 4 << 30
SECONDS = 20.0


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        status: exit status; negative: the number of the signal that ended it. -9 where it was out of time.
        stdout: what it wrote there, undecodable bytes as surrogates.
        stderr: likewise.
        seconds: from the fork to its end.
        peak_bytes: resident memory at its largest, less what it had from the worker.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int


def run_limited(
    argv: Sequence[str | os.PathLike[str]],
    cwd: str | os.PathLike[str] | None = None,
    env: dict[str, str] | None = None,
    seconds: float = SECONDS,
    stdin: bytes = b"",
    before: str = "",
) -> Outcome:
    """Runs `whisper2max ARGV`; nothing of it outlives the call.

    Args:
        argv: the arguments after the command's name.
        cwd: its working directory; by default the one of the tests.
        env: environment variables that differ from those of the tests.
        seconds: after these it is killed, with whatever it started.
        stdin: its standard input.
        before: Python that its process runs first, such as a hook.
    """
    with tempfile.TemporaryDirectory(prefix="limited-") as scratch:
        streams = {name: os.path.join(scratch, name) for name in ("stdin", "stdout", "stderr")}
        Path(streams["stdin"]).write_bytes(stdin)
        request = {
            "argv": [os.fspath(each) for each in argv],
            "cwd": os.path.abspath(cwd or os.getcwd()),
            "env": {**os.environ, **(env or {})},
            "seconds": seconds,
            "streams": streams,
            "before": before,
        }
        worker = _worker()
        worker.stdin.write(json.dumps(request) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
        assert answer, "the worker that runs commands under limits has ended; its stderr says why"
        texts = {
            name: Path(streams[name]).read_bytes().decode("utf-8", "surrogateescape") for name in ("stdout", "stderr")
        }
        return Outcome(**json.loads(answer), **texts)


def assert_refused(outcome: Outcome, *patterns: str, after_progress: bool = False) -> str:
    """Requires exit status 2 and one paragraph on stderr, free of control characters, that begins with "error: ".

    Args:
        outcome: of `run_limited`.
        patterns: regular expressions that the paragraph must match.
        after_progress: allow lines before it, which say how far the command came.

    Returns:
        The paragraph, without "error: ".
    """
    said = f"exit status {outcome.status} after {outcome.seconds:.1f} s, stderr:\n{outcome.stderr[-3000:]}"
    assert outcome.status == 2, said
    assert "Traceback" not in outcome.stderr, said
    assert outcome.stderr.endswith("\n"), said
    *progress, message = outcome.stderr[:-1].split("\n")
    assert message.startswith("error: ") and message.isprintable(), said
    assert not any(line.startswith("error: ") for line in progress), said
    assert after_progress or not progress, said
    for pattern in patterns:
        assert re.search(pattern, message), f"{pattern} is not in: {message}"
    assert outcome.peak_bytes < MEMORY
    return message.removeprefix("error: ")


@cache
def _worker() -> subprocess.Popen:
    worker = subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    atexit.register(worker.communicate)
    return worker


def _import_everything() -> None:
    import jinja2  # noqa: F401
    import max.driver  # noqa: F401
    import max.engine  # noqa: F401
    import pydantic.json_schema  # noqa: F401
    import rich.console  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401
    from transformers import WhisperForConditionalGeneration  # noqa: F401

    import whisper2max.cli.description  # noqa: F401
    import whisper2max.cli.inspection  # noqa: F401
    import whisper2max.cli.main  # noqa: F401
    import whisper2max.parity.comparison  # noqa: F401
    import whisper2max.runtime.model  # noqa: F401
    import whisper2max.runtime.writers  # noqa: F401
    import whisper2max.verification  # noqa: F401


def _serve() -> None:
    """A line of JSON in, a line of JSON out, until the end of standard input."""
    _import_everything()
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


def _run(request: dict) -> dict:
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.write(writing, str(_pages(1)).encode())
        os.close(writing)
        _become(request)
    os.close(writing)
    with open(reading) as pipe:
        resident_at_first = int(pipe.read())
    descriptor = os.pidfd_open(child)
    try:
        ended = select.select([descriptor], [], [], request["seconds"])[0]
        if not ended:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(descriptor)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it left nobody behind
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - started,
        "peak_bytes": max(0, usage.ru_maxrss * 1024 - resident_at_first),
    }


def _become(request: dict) -> None:
    """Turns this process into the command; never returns."""
    status = 1
    try:
        os.setsid()
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            flags = os.O_RDONLY if name == "stdin" else os.O_WRONLY | os.O_CREAT | os.O_APPEND
            os.dup2(os.open(request["streams"][name], flags, 0o600), number)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, "r" if number == 0 else "w", encoding="utf-8", errors=errors, closefd=False)
            for number, errors in enumerate(("surrogateescape", "strict", "backslashreplace"))
        )
        for name in _ENVIRONMENT.keys() - request["env"].keys():
            os.environ.pop(name, None)
        os.environ.update(request["env"])  # MAX has set variables of its own when it was imported
        os.chdir(request["cwd"])
        resource.setrlimit(resource.RLIMIT_AS, (_pages(0) + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["whisper2max", *request["argv"]]
        exec(request["before"], {})
        from whisper2max.cli.main import run

        status = run()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _pages(column: int) -> int:
    """Bytes of this process that are mapped (0) or resident (1)."""
    return int(Path("/proc/self/statm").read_text().split()[column]) * resource.getpagesize()


if __name__ == "__main__":
    _serve()
