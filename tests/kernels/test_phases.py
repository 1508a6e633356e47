"""Phases with more threads than CPUs: every unit once, no phase before the last is done, and nobody sleeps for ever."""

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from programs import KERNELS, MOJO, build

PHASES = 10_000

# What a mistake in phases.mojo looks like from outside.
MISTAKES = {
    "unit_twice": (
        "var unit = add(taken)",
        "var unit = load(taken)\n            Atomic[Int32].store(taken, Int32(unit + 1))",
    ),
    "no_barrier": ("if load(done) >= units:\n            return", "if units >= 0:\n            return"),
    "one_too_few": ("while finished < units:", "while finished < units - 1:"),
    "never_woken": ("futex(done, FUTEX_WAKE_PRIVATE, EVERYBODY)", "pass"),
    "never_asleep": ("futex(done, FUTEX_WAIT_PRIVATE, finished)", "pass"),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("phases"), Path(__file__).with_name("phases.mojo"), MISTAKES)


def command(program, case, threads, phases=PHASES, slow_microseconds=300):
    return [str(each) for each in (program, case, threads, phases, slow_microseconds)]


def run(command, seconds=60):
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.mark.parametrize("threads", [1, 2, 8, 32])
def test_more_threads_than_cpus(program, threads):
    result = run(command(program, "good", threads))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("busy", [1, 4])
def test_beside_busy_processes(program, busy):
    with ExitStack() as stack:
        for _ in range(busy):
            neighbour = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(neighbour.kill)
        result = run(command(program, "good", 8, PHASES // 5))
    assert result.returncode == 0, result.stdout + result.stderr


def test_all_threads_on_one_cpu(program):
    one = sorted(os.sched_getaffinity(0))[0]
    result = run(["taskset", "--cpu-list", str(one), *command(program, "good", 8)])
    assert result.returncode == 0, result.stdout + result.stderr


def cpu_seconds(command):
    """CPU time that a command takes; it must succeed."""
    process = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(("case", "sleeps"), [("good", True), ("never_asleep", False)])
def test_a_long_wait_takes_no_cpu(program, case, sleeps):
    """Seven threads wait a second for a unit of the last of six phases."""
    taken = cpu_seconds(command(program, case, 8, phases=6, slow_microseconds=1_000_000))
    assert (taken < 0.4) is sleeps


@pytest.mark.parametrize("mistake", ["unit_twice", "no_barrier", "one_too_few"])
def test_a_mistake_is_found(program, mistake):
    # a race shows now and then only
    assert any(run(command(program, mistake, 8)).returncode for _ in range(20))


def test_a_sleeper_that_is_not_woken_is_found(program):
    with pytest.raises(subprocess.TimeoutExpired):
        run(command(program, "never_woken", 8), seconds=2)


WAITING = """
from kernels.phases import Phases


@export
def wait(phases: Pointer[Phases, ImmUntrackedOrigin], units: Int) abi("C"):
    def nothing(unit: Int) {imm}:
        pass

    phases[].share(0, units, nothing)
"""


@pytest.mark.parametrize(
    ("machine", "cpu", "pause", "futex"),
    [("x86_64", "x86-64-v2", r"\tpause", r"\$202, %edi"), ("aarch64", "neoverse-n1", r"\tisb", r"w0, #98")],
)
def test_every_kind_of_cpu_pauses_and_calls_its_futex(tmp_path, machine, cpu, pause, futex):
    (tmp_path / "kernels").symlink_to(KERNELS)
    (tmp_path / "waiting.mojo").write_text(WAITING)
    target = ["--target-triple", f"{machine}-unknown-linux-gnu", "--target-cpu", cpu]
    built = subprocess.run(
        [MOJO, "build", "waiting.mojo", "--emit", "asm", *target, "-o", "waiting.s"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assembly = (tmp_path / "waiting.s").read_text()
    assert re.search(pause, assembly)
    assert len(re.findall(futex, assembly)) == 2  # to sleep and to wake
