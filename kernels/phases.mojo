"""Steps of one kernel that follow each other, each shared among all threads, for the price of one dispatch.

Waking a thread takes longer than many a small product. So the threads are woken once, and all of them go through all
phases together: whoever is free takes the next unit of the phase, and nobody begins a phase before the last is done.

    thread 0   [ phase 0: unit 0, unit 2, .. ] . [ phase 1: unit 0 .. ] ...
    thread 1   [ phase 0: unit 1, unit 3, .. ] . [ phase 1: unit 1 .. ] ...

A thread that comes late finds the units taken, and one that never comes is not missed: the others do all the work.
Only a unit that was begun is waited for. On an idle machine that takes less than a unit, and the thread that waits
keeps its CPU. On a busy one the thread that does the unit may have lost its CPU to another process, for milliseconds.
Then the one that waits sleeps, so that its CPU is there for the other, and is woken when the phase is done.
"""

from std.atomic import Atomic
from std.ffi import external_call
from std.sys import CompilationTarget, llvm_intrinsic
from std.time import perf_counter_ns

comptime CACHE_LINE = 16
"""Counters of 4 bytes that share a line of the cache."""

comptime NANOSECONDS_AWAKE = 200_000
"""How long a thread waits before it sleeps. In a virtual machine a CPU that rests is given away, and wakes late: to sleep
after 30 us makes a step slower on a quiet machine."""

comptime PAUSES = 8
"""Between two looks at the clock, which take about as long as one pause."""

comptime FUTEX = 202 if CompilationTarget.is_x86() else 98
"""The number of this system call of Linux, on x86-64 and on aarch64."""

comptime FUTEX_WAIT_PRIVATE = 0 | 128
comptime FUTEX_WAKE_PRIVATE = 1 | 128
comptime EVERYBODY = Int(Int32.MAX)

comptime Counter = Pointer[Int32, MutUntrackedOrigin]
"""Of all threads, on a line of the cache of its own."""


def pause():
    """Tell the CPU that this thread waits for another."""
    comptime if CompilationTarget.is_x86():
        llvm_intrinsic["llvm.x86.sse2.pause", NoneType]()
    else:
        llvm_intrinsic["llvm.aarch64.isb", NoneType](Int32(15))


def load(counter: Counter) -> Int:
    """Its value now."""
    return Int(Atomic[Int32].load(counter))


def add(counter: Counter) -> Int:
    """Count one more, and return the value before."""
    return Int(Atomic[Int32].fetch_add(counter, Int32(1)))


def futex(counter: Counter, operation: Int, value: Int):
    """Sleep until someone wakes the sleepers of this counter, unless it has another value; or wake so many of them."""
    _ = external_call["syscall", Int](FUTEX, counter, operation, value, 0)


struct Phases(Movable):
    """For every phase, how many of its units were taken, how many are done, and how many threads sleep until then."""

    var counters: List[Int32]

    def __init__(out self, count: Int):
        """Nothing of `count` phases is taken."""
        self.counters = List[Int32](length=3 * count * CACHE_LINE, fill=0)

    def counter(self, number: Int) -> Counter:
        """One of the three of a phase: 3 * phase for the units taken, + 1 for those done, + 2 for the sleepers."""
        var counters = self.counters.unsafe_ptr().unsafe_mut_cast[True]()
        return counters.unsafe_offset(number * CACHE_LINE).unsafe_origin_cast[MutUntrackedOrigin]()

    def take[Work: def(Int) -> None](self, phase: Int, units: Int, work: Work):
        """The same as `share`, but it does not wait for the units of other threads."""
        var taken, done, sleepers = self.counter(3 * phase), self.counter(3 * phase + 1), self.counter(3 * phase + 2)
        while True:
            var unit = add(taken)
            if unit >= units:
                break
            work(unit)
            # who sleeps says so before the last look at `done`: either the sleeper is seen here, or the unit there
            if add(done) == units - 1 and load(sleepers) > 0:
                futex(done, FUTEX_WAKE_PRIVATE, EVERYBODY)

    def share[Work: def(Int) -> None](self, phase: Int, units: Int, work: Work):
        """Take units of a phase until none is left, then wait until all are done.

        Parameters:
            Work: Called with the number of a unit; units run at once on several threads.

        Args:
            phase: Every thread calls all phases in the same order.
            units: Of the phase, the same number in all threads.
            work: What a unit is.
        """
        self.take(phase, units, work)
        var done = self.counter(3 * phase + 1)
        if load(done) >= units:
            return
        var asleep_from = perf_counter_ns() + NANOSECONDS_AWAKE
        while perf_counter_ns() < asleep_from:
            for _ in range(PAUSES):
                if load(done) >= units:
                    return
                pause()
        _ = add(self.counter(3 * phase + 2))
        var finished = load(done)
        while finished < units:
            futex(done, FUTEX_WAIT_PRIVATE, finished)
            finished = load(done)
