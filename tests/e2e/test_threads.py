"""How many threads MAX runs on and where, and forks: its threads stay behind, so a child gets an error at once."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, multiprocessing, os, sys, time, warnings
import numpy as np
import whisper2max
from whisper2max.runtime.options import DecodingOptions
from whisper2max.samples import SPEECH

artifact, how = sys.argv[1:]
model = whisper2max.load(artifact)
mel = np.zeros((1, 80, 3000), np.float32)
states = model.encode(mel)
tokens = np.zeros((1, 1), np.int64)
calls = {
    "transcribe": lambda: model.transcribe(SPEECH),
    "log_mel": lambda: model.log_mel(np.zeros(480_000, np.float32)),
    "encode": lambda: model.encode(mel),
    "logits": lambda: model.logits(tokens, states),
    "decode": lambda: model.decode(mel, [DecodingOptions()]),
    "load": lambda: whisper2max.load(artifact),
}


def child(pipe):
    started, found = time.monotonic(), {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "no error"
        except whisper2max.Whisper2MaxError as error:
            found[name] = f"{type(error).__name__}: {error}"
    model.close()  # a block that ends in the child must not fail
    pipe.send((found, time.monotonic() - started))


here, there = multiprocessing.Pipe()
started = time.monotonic()
if how == "multiprocessing":
    process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
    process.start()
    process.join()
    status = process.exitcode
else:
    pid = os.fork()
    if pid == 0:
        child(there)
        print("said by the child")
        sys.exit(7)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
seconds = time.monotonic() - started
found, seconds_of_calls = here.recv()
still_good = bool(np.array_equal(model.encode(mel), states))
print(json.dumps([found, seconds_of_calls, status, seconds, still_good]))
"""


@pytest.mark.parametrize(("how", "expected"), [("multiprocessing", 0), ("fork", 7)])
def test_a_forked_child_gets_an_error_at_once_and_ends(small_artifact, how, expected):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(small_artifact.path), how]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    *before, last = result.stdout.splitlines()
    assert before == ([] if how == "multiprocessing" else ["said by the child"])
    found, seconds_of_calls, status, seconds, still_good = json.loads(last)
    assert all(answer.startswith("UsageError: this process was forked from one that had") for answer in found.values())
    assert all("load models after the fork" in answer for answer in found.values())
    assert seconds_of_calls < 1 and seconds < 5
    assert status == expected and still_good


def test_a_model_is_loaded_after_a_fork(small_artifact):
    program = """
import os, sys, numpy as np, whisper2max, whisper2max.runtime.engine
pid = os.fork()
if pid == 0:
    shape = whisper2max.load(sys.argv[1]).encode(np.zeros((1, 80, 3000), np.float32)).shape
    os._exit(3 if shape == (1, 1500, 32) else 4)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    command = [sys.executable, "-c", program, str(small_artifact.path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "3\n", result.stderr


@pytest.mark.parametrize(("quota", "cpu_threads", "expected"), [(None, 0, 2), (1, 0, 1), (64, 0, 2), (1, 2, 2)])
def test_the_width_of_the_pool(quota, cpu_threads, expected):
    """CPUs that the process may run on, or the quota if it is less, or what is asked for; each thread on all CPUs."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    program = f'''
import os, time
from contextlib import suppress
from pathlib import Path
from whisper2max.runtime import threads
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
allowed = os.sched_getaffinity(0)
threads.quota_of_cpus = lambda: {quota}
session = threads.shared_session({cpu_threads})


def pool():
    """Threads of MAX by their name; others end meanwhile."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [task] * ("Thread" in (task / "comm").read_text())
    return found


end = time.monotonic() + 20
while len(pool()) < {expected} and time.monotonic() < end:
    time.sleep(0.01)  # a thread of MAX gives itself its name
time.sleep(0.2)
tasks = pool()
assert all(os.sched_getaffinity(int(task.name)) == allowed for task in tasks), "pinned to some CPUs"
print(len(tasks))
'''
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout == f"{expected}\n", result.stderr
