"""Steps of one kernel that follow each other, each shared among all threads, for the price of one dispatch.

Waking a thread takes longer than many a small product. So the threads are woken once, and all of them go through all
phases together: whoever is free takes the next unit of the phase, and nobody begins a phase before the last is done.

    thread 0   [ phase 0: unit 0, unit 2, .. ] . [ phase 1: unit 0 .. ] ...
    thread 1   [ phase 0: unit 1, unit 3, .. ] . [ phase 1: unit 1 .. ] ...

A thread that comes late finds the units taken, and one that never comes is not missed: the others do all the work.
Only a unit that was begun is waited for.
"""

from std.atomic import Atomic

comptime CACHE_LINE = 8
"""Counters of 8 bytes that share a line of the cache."""


struct Phases(Movable):
    """Counters of the units of every phase that were taken, and that are done."""

    var counters: List[Int64]

    def __init__(out self, count: Int):
        """Nothing of `count` phases is taken."""
        self.counters = List[Int64](length=2 * count * CACHE_LINE, fill=0)

    def counter(self, number: Int) -> Pointer[Int64, MutUntrackedOrigin]:
        """Of all threads, on a line of the cache of its own."""
        var counters = self.counters.unsafe_ptr().unsafe_mut_cast[True]()
        return counters.unsafe_offset(number * CACHE_LINE).unsafe_origin_cast[MutUntrackedOrigin]()

    def take[Work: def(Int) -> None](self, phase: Int, units: Int, work: Work):
        """The same as `share`, but it does not wait for the units of other threads."""
        var taken, done = self.counter(2 * phase), self.counter(2 * phase + 1)
        while True:
            var unit = Int(Atomic[Int64].fetch_add(taken, Int64(1)))
            if unit >= units:
                break
            work(unit)
            _ = Atomic[Int64].fetch_add(done, Int64(1))

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
        var done = self.counter(2 * phase + 1)
        # on a busy machine to yield would give the CPU to others for a whole time slice, at every phase
        while Int(Atomic[Int64].load(done)) < units:
            pass
