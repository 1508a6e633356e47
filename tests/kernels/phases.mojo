"""Threads of the operating system that go through phases together, built and run by test_phases.py.

A unit adds up what all units of the phase before have written, so it gives another number if it begins too early, and
counts itself, so that one that is done twice or never is found. Some units take long: a thread that waits for them sleeps.
"""

from std.atomic import Atomic
from std.ffi import external_call
from std.sys import argv

from kernels.phases import Phases

comptime MOST_UNITS = 9


def units_of(phase: Int) -> Int:
    """From 0 to MOST_UNITS, so that there are fewer than threads, and more."""
    return phase * 7 % (MOST_UNITS + 1)


def is_slow(phase: Int, unit: Int) -> Bool:
    """One of the units of every fifth phase."""
    return phase % 5 == 0 and unit == phase // 5 % MOST_UNITS


struct Job(Movable):
    """What the threads share: numbers and counts by phase and unit."""

    var phases: Phases
    var numbers: List[UInt64]
    var counts: List[Int64]
    var phase_count: Int
    var slow: Int32

    def __init__(out self, phase_count: Int, slow: Int32):
        self.phases = Phases(phase_count)
        self.numbers = List[UInt64](length=phase_count * MOST_UNITS, fill=0)
        self.counts = List[Int64](length=phase_count * MOST_UNITS, fill=0)
        self.phase_count = phase_count
        self.slow = slow

    def expected(self, phase: Int, unit: Int) -> UInt64:
        """From the numbers of the phase before, as they are now."""
        var total = UInt64(unit + 1)
        if phase > 0:
            for other in range(units_of(phase - 1)):
                total += self.numbers[(phase - 1) * MOST_UNITS + other] * 31
        return total


comptime Shared = Pointer[Job, MutUntrackedOrigin]


def one_thread(job: Shared) abi("C") -> Int:
    """All phases, as a thread of a kernel goes through them."""
    ref shared = job[]
    var numbers = shared.numbers.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin]()
    var counts = shared.counts.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin]()
    for phase in range(shared.phase_count):

        def one_unit(unit: Int) {imm}:
            if is_slow(phase, unit):
                _ = external_call["usleep", Int32](job[].slow)
            var place = phase * MOST_UNITS + unit
            numbers.unsafe_offset(place)[] = job[].expected(phase, unit)
            _ = Atomic[Int64].fetch_add(counts.unsafe_offset(place), Int64(1))

        shared.phases.share(phase, units_of(phase), one_unit)
    return 0


def check() raises:
    """Arguments: threads, phases, and how many microseconds a slow unit takes."""
    var threads, phase_count = Int(argv()[2]), Int(argv()[3])
    var job = Job(phase_count, Int32(Int(argv()[4])))
    var shared = Pointer(to=job).unsafe_origin_cast[MutUntrackedOrigin]()
    var handles = List[Int](length=threads, fill=0)
    for thread in range(threads):
        var handle = handles.unsafe_ptr().unsafe_offset(thread)
        if external_call["pthread_create", Int32](handle, Int(0), one_thread, shared) != 0:
            raise Error("no thread was started")
    for thread in range(threads):
        _ = external_call["pthread_join", Int32](handles[thread], Int(0))
    for phase in range(phase_count):
        for unit in range(units_of(phase)):
            var place = phase * MOST_UNITS + unit
            if job.counts[place] != 1:
                raise Error("unit ", unit, " of phase ", phase, " was done ", job.counts[place], " times")
            if job.numbers[place] != job.expected(phase, unit):
                raise Error("unit ", unit, " of phase ", phase, " was begun before the phase before was done")
    _ = job^
