"""The limits limit, and a refusal is told from everything else."""

import dataclasses
import os
import time

import pytest
from limits import MEMORY, Outcome, assert_refused, run_limited


def test_a_refusal_is_one_paragraph_of_status_2(tmp_path):
    outcome = run_limited(["inspect", tmp_path / "absent"])
    assert "absent does not exist" in assert_refused(outcome, "does not exist")
    assert outcome.seconds < 5 and outcome.peak_bytes < 1 << 28


def test_other_ends_are_no_refusals():
    good = Outcome(2, "", "error: it is so.\n", 0.1, 0)
    assert assert_refused(good, "so") == "it is so."
    wrong = [
        {"status": 1},
        {"status": -9},
        {"stderr": ""},
        {"stderr": "error: it is so."},
        {"stderr": "something\nerror: it is so.\n"},
        {"stderr": "error: it\nis so.\n"},
        {"stderr": "error: it \x1b[2J is so.\n"},
        {"stderr": 'Traceback (most recent call last):\n  File "x"\nerror: it is so.\n'},
        {"stderr": "error: it is not.\n"},
        {"peak_bytes": MEMORY},
    ]
    for changes in wrong:
        with pytest.raises(AssertionError):
            assert_refused(dataclasses.replace(good, **changes), "is so")
    assert_refused(dataclasses.replace(good, stderr="walking\nerror: it is so.\n"), after_progress=True)


def test_the_working_directory_and_the_environment_are_those_asked_for(tmp_path):
    outcome = run_limited(["cache", "list"], cwd=tmp_path, env={"WHISPER2MAX_CACHE": "here"})
    assert outcome.status == 0 and outcome.stdout.endswith(f"in {tmp_path / 'here'}\n")
    assert sorted(os.listdir(tmp_path / "here")) == ["graphs", "locks"]


def test_what_never_ends_is_killed_with_what_it_started(tmp_path):
    record = tmp_path / "pid"
    before = f"import subprocess; open({str(record)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))"
    outcome = run_limited(["cache", "list"], seconds=1, before=f"{before}; import time; time.sleep(60)")
    assert outcome.status == -9 and outcome.seconds < 5
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(int(record.read_text()), 0)
            time.sleep(0.05)


def test_memory_is_limited_and_told():
    assert "MemoryError" in run_limited(["cache", "list"], before=f"bytearray({MEMORY + MEMORY // 4})").stderr
    outcome = run_limited(["cache", "list"], before=f"b'x' * {MEMORY // 16}")
    assert outcome.status == 0 and MEMORY // 20 < outcome.peak_bytes < MEMORY // 10


def test_a_traceback_is_an_end_with_status_1():
    outcome = run_limited(["cache", "list"], before="1 / 0")
    assert outcome.status == 1 and "ZeroDivisionError" in outcome.stderr
