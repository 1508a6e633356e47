"""One piece of work for all threads: whoever is free takes the next part.

`sync_parallelize` deals its tasks out in turn before the first begins. Then the thread whose CPU is slowest, because
others use it too, holds up all the rest. So each thread gets one task here, which takes unit after unit.
"""

from max.algorithm import sync_parallelize
from max.runtime.asyncrt import parallelism_level

from .phases import Phases

comptime BYTES_WORTH_A_THREAD = 1 << 20
"""Waking another thread takes 20 us, as long as reading half a megabyte."""

comptime UNITS_PER_THREAD = 4
"""Parts of a range: few enough to be read front to back, enough to make up for a thread that is late."""


def share_units[Work: def(Int) -> None](units: Int, threads: Int, work: Work):
    """Do units 0 to `units` on at most so many threads.

    Parameters:
        Work: Called with the number of a unit; units run at once on several threads.

    Args:
        units: To be done.
        threads: At most.
        work: What a unit is.
    """
    var phases = Phases(1)

    def one_thread(thread: Int) {imm}:
        phases.take(0, units, work)

    sync_parallelize(one_thread, min(units, threads))
    _ = phases^


def share_units[Work: def(Int) -> None](units: Int, work: Work):
    """The same on all threads."""
    share_units(units, parallelism_level(None), work)


def share_range[Work: def(Int, Int) -> None](count: Int, bytes: Int, work: Work):
    """Do 0 to `count` in parts, on as many threads as it is worth to move `bytes`; a small range in the caller.

    Parameters:
        Work: Called with the first of a part and one past its last.

    Args:
        count: To be done.
        bytes: That are read and written for all of them.
        work: What a part is.
    """
    var threads = min(bytes // BYTES_WORTH_A_THREAD, parallelism_level(None), count)
    if threads <= 1:
        return work(0, count)
    var units = min(count, threads * UNITS_PER_THREAD)

    def one_part(unit: Int) {imm}:
        work(unit * count // units, (unit + 1) * count // units)

    share_units(units, threads, one_part)
