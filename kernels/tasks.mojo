"""How many tasks a piece of work is worth: waking another thread takes 20 us, as long as reading half a megabyte."""

from max.runtime.asyncrt import parallelism_level

comptime BYTES_WORTH_A_TASK = 1 << 20


def tasks_worth(bytes: Int, most: Int) -> Int:
    """Tasks for work that moves `bytes` and can be cut into `most` parts: at least one, at most one per thread."""
    return max(1, min(bytes // BYTES_WORTH_A_TASK, parallelism_level(None), most))
