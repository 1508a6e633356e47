"""Work shared among the threads of MAX, built and run by test_share.py.

The threads are as many as CPUs when the first work is shared. Then the program says "ready" and waits for a line, so that
it can be moved to fewer CPUs.
"""

from std.atomic import Atomic
from std.ffi import external_call

from kernels.share import BYTES_WORTH_A_THREAD, UNITS_PER_THREAD, share_range, share_units
from max.runtime.asyncrt import parallelism_level

comptime REPETITIONS = 200
comptime MOST = 300


def this_thread() -> Int64:
    """A number that no other thread has."""
    return external_call["pthread_self", Int64]()


struct Counts(Movable):
    """How often something was done, and by which thread last, by its number."""

    var counts: List[Int64]
    var threads: List[Int64]

    def __init__(out self):
        self.counts = List[Int64](length=MOST, fill=0)
        self.threads = List[Int64](length=MOST, fill=0)

    def done(self, number: Int):
        """Once more, by this thread."""
        var counts = self.counts.unsafe_ptr().unsafe_mut_cast[True]().unsafe_origin_cast[MutUntrackedOrigin]()
        var threads = self.threads.unsafe_ptr().unsafe_mut_cast[True]().unsafe_origin_cast[MutUntrackedOrigin]()
        _ = Atomic[Int64].fetch_add(counts.unsafe_offset(number), Int64(1))
        threads.unsafe_offset(number)[] = this_thread()

    def require(self, count: Int, what: String) raises:
        """Numbers below `count` were done once, no other was."""
        for number in range(MOST):
            if self.counts[number] != Int64(1 if number < count else 0):
                raise Error(what, ": ", number, " of ", count, " was done ", self.counts[number], " times")


def check_units(units: Int, threads: Int) raises:
    """Every unit is done once."""
    var counts = Counts()

    def one_unit(unit: Int) {imm}:
        counts.done(unit)

    share_units(units, threads, one_unit)
    counts.require(units, String("units on ", threads, " threads"))


def check_range(count: Int, threads_worth: Int) raises:
    """Every number is in one part, and there are as many parts as UNITS_PER_THREAD says."""
    var counts = Counts()
    var parts = Counts()

    def one_part(first: Int, end: Int) {imm}:
        parts.done(0)
        for number in range(first, end):
            counts.done(number)

    share_range(count, threads_worth * BYTES_WORTH_A_THREAD, one_part)
    counts.require(count, String("a range worth ", threads_worth, " threads"))
    var threads = min(threads_worth, parallelism_level(None), count)
    var expected = 1 if threads <= 1 else min(count, threads * UNITS_PER_THREAD)
    if parts.counts[0] != Int64(expected):
        raise Error("a range of ", count, " was cut into ", parts.counts[0], " parts, not ", expected)
    if expected == 1 and parts.threads[0] != this_thread():
        raise Error("a small range was not done by its caller")


def check_late_thread() raises:
    """While one thread is at a long unit, the others do all the rest."""
    var counts = Counts()

    def one_unit(unit: Int) {imm}:
        if unit == 0:
            _ = external_call["usleep", Int32](Int32(500_000))
        counts.done(unit)

    share_units(40, 2, one_unit)
    counts.require(40, "units beside a long one")
    for unit in range(1, 40):
        if counts.threads[unit] == counts.threads[0]:
            raise Error("unit ", unit, " waited for a long one")


def check() raises:
    check_units(1, 1)
    if parallelism_level(None) < 2:
        raise Error("this needs two CPUs")
    print("ready", flush=True)
    _ = input()
    for _ in range(REPETITIONS):
        for units in [0, 1, 2, 7, MOST]:
            for threads in [1, 2, 8, 64]:
                check_units(units, threads)
            for threads_worth in [0, 1, 2, 64]:
                check_range(units, threads_worth)
    check_late_thread()
