"""Work that is shared: every unit once, whatever the numbers of units, threads and CPUs."""

import os
import subprocess
from pathlib import Path

import pytest
from programs import build

MISTAKES = {
    "unit_by_all": ("phases.take(0, units, work)", "for unit in range(units):\n            work(unit)"),
    "dealt_out": (
        "phases.take(0, units, work)",
        "for unit in range(thread, units, min(units, threads)):\n            work(unit)",
    ),
    "gap": ("(unit + 1) * count // units", "(unit + 1) * count // units - unit // 3"),
    "always_alone": ("if threads <= 1:", "if threads <= 100:"),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    return build(tmp_path_factory.mktemp("share"), Path(__file__).with_name("share.mojo"), MISTAKES)


def run(program, case, cpus):
    """Exit status and errors of the program, moved to so many CPUs once it has its threads."""
    pipe = subprocess.PIPE
    with subprocess.Popen([program, case], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        for task in os.listdir(f"/proc/{process.pid}/task"):
            os.sched_setaffinity(int(task), sorted(os.sched_getaffinity(0))[:cpus])
        output, errors = process.communicate("\n", timeout=60)
    return process.returncode, output + errors


@pytest.mark.parametrize("cpus", [1, 2])
def test_every_unit_is_done_once(program, cpus):
    status, said = run(program, "good", cpus)
    assert status == 0, said


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(program, mistake):
    status, said = run(program, mistake, 2)
    assert status != 0, said
