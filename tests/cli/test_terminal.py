import errno
import io
import logging
import os
import sys
import threading
import time
import warnings

import pytest

from whisper2max.cli import terminal
from whisper2max.cli.terminal import StandardStream, say, say_warnings, settle, show, show_text


@pytest.fixture
def stdout(monkeypatch):
    """Puts a `StandardStream` on a descriptor in the place of stdout."""

    def put(descriptor, closed=False, encoding="utf-8"):
        raw = StandardStream(descriptor, closed)
        stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="replace", line_buffering=True)
        monkeypatch.setattr(sys, "stdout", stream)
        return raw

    return put


def full():
    return os.open("/dev/full", os.O_WRONLY)


def unread():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_what_is_shown_arrives(stdout):
    reading, writing = os.pipe()
    stdout(writing)
    assert show("Grüße\x1b") and show_text("a\nb\x07")
    assert settle(0) == 0 and settle(2) == 2
    assert os.read(reading, 100).decode() == "Grüße\\x1b\na\nb\\x07\n"


@pytest.mark.parametrize(
    ("descriptor", "closed", "number"),
    [(full, False, errno.ENOSPC), (unread, False, errno.EPIPE), (unread, True, errno.EBADF)],
)
def test_the_first_failure_is_kept(stdout, capsys, descriptor, closed, number):
    raw = stdout(descriptor(), closed)
    assert not show("one") and not show("two")
    assert raw.failure.errno == number
    quiet = number == errno.EPIPE
    assert settle(0) == (141 if quiet else 1) and settle(2) == 2
    assert (capsys.readouterr().err == "") == quiet


def test_a_reader_who_leaves_misses_nothing_that_is_in_a_file(stdout):
    stdout(unread())
    assert not show_text("one", in_file=True)
    assert settle(0) == 0 and settle(1) == 1


def test_nothing_shown_is_nothing_lost(stdout):
    stdout(full())
    assert settle(0) == 0


def test_a_pipe_that_does_not_wait_is_waited_for(stdout):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stdout(writing)
    got = []

    def read_late():
        time.sleep(0.2)
        while piece := os.read(reading, 1 << 16):
            got.append(piece)

    reader = threading.Thread(target=read_late)
    reader.start()
    assert show("x" * 1_000_000) and settle(0) == 0
    os.close(writing)
    reader.join()
    assert b"".join(got) == b"x" * 1_000_000 + b"\n"


def test_say_escapes(capsys):
    say("a\x1b[2J\nb")
    say("a\x1b[2J\nb", keep="\n")
    assert capsys.readouterr().err == "a\\x1b[2J\\nb\na\\x1b[2J\nb\n"


def test_warnings_and_logs_are_said(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", None)
    monkeypatch.setattr(logging.getLogger("whisper2max"), "handlers", [])
    say_warnings()
    say_warnings()
    with warnings.catch_warnings(record=False):
        warnings.simplefilter("always")
        warnings.showwarning = terminal.warnings.showwarning
        warnings.warn("beware\x1b", stacklevel=1)
    logging.getLogger("whisper2max.runtime.audio").warning("%s: damaged", "a\x1b.mp3")
    logging.getLogger("whisper2max.runtime.audio").info("nothing")
    assert capsys.readouterr().err == "warning: beware\\x1b\nwarning: a\\x1b.mp3: damaged\n"


def test_tables_take_names_as_they_are(capsys):
    from whisper2max.cli.parity_table import parity_table

    worst = {"logits[b]\x1b": {"max_abs": 1.0, "rel_rmse": 1.0, "of_limit": 0.5}}
    tokens = {"equal": 1, "compared": 1}
    summary = {"reference": "[red]:smile:", "inputs": ["a\x1b[2J.wav"], "worst": worst, "tokens": tokens}
    summary |= {"rows": 1, "passed": True, "not_executed": ""}
    say(parity_table(summary))
    said = capsys.readouterr().err
    assert "not executed" not in said
    assert "[red]:smile:" in said and r"a\x1b[2J.wav" in said and r"logits[b]\x1b" in said and "\x1b" not in said


def test_what_was_not_executed_stands_above_the_figures(capsys):
    from whisper2max.cli.parity_table import parity_table

    tokens = {"equal": 1, "compared": 1}
    summary = {"reference": "PyTorch", "inputs": ["a.wav"], "worst": {}, "tokens": tokens, "rows": 1, "passed": True}
    say(parity_table(summary | {"not_executed": "sm_90"}))
    said = " ".join(capsys.readouterr().err.split())
    assert "on this CPU, the graphs for sm_90 were not executed" in said
