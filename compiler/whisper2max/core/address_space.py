"""Check that the limit on this process's address space, `ulimit -v`, leaves room for MAX."""

import resource
import sys
from pathlib import Path

from whisper2max.core.errors import UsageError

# What MAX 26.7 maps when it is loaded and runs a graph of the smallest model, on two threads: 2.9 GiB. With less than
# 2.7 its allocator ends the process without an exception, by SIGABRT or SIGILL.
NEEDED_BY_MAX = 11 << 28


def require_room_for_max() -> None:
    """Refuses a limit under which MAX would end the process.

    Raises:
        UsageError: the limit is too low.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or "max.driver" in sys.modules:
        return
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if limit - mapped < NEEDED_BY_MAX:
        raise UsageError(
            f"The limit of address space, {limit / 2**30:.2f} GiB, is too low for MAX, which maps about 3 GiB before "
            "it uses any of them; raise it with `ulimit -v`, or limit the memory of the process in another way."
        )
