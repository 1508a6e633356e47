"""The MAX session of this process, and how many threads it runs graphs on.

MAX keeps one thread pool per process, as wide as the CPUs that its creator may run on;
`InferenceSession(num_threads=...)` aborts the process in 26.7 when the width differs. So the pool is
created under a CPU affinity of the width asked for, and every model of the process shares it.
"""

import os
import threading

from max.driver import CPU
from max.engine import InferenceSession

from whisper2max.errors import UsageError

_lock = threading.Lock()
_session: InferenceSession | None = None
_threads = 0


def shared_session(cpu_threads: int = 0) -> InferenceSession:
    """The session of this process.

    Args:
        cpu_threads: width of the pool; 0 takes all CPUs, or the pool as it is.

    Raises:
        UsageError: fewer than 0 or more than there are CPUs, or the pool exists with another width.
    """
    global _session, _threads
    available = os.sched_getaffinity(0)
    if not 0 <= cpu_threads <= len(available):
        raise UsageError(f"cpu_threads is {cpu_threads}; this process may use 1 to {len(available)} CPUs, or 0 for all")
    with _lock:
        if _session is None:
            wanted = cpu_threads or len(available)
            try:
                os.sched_setaffinity(0, sorted(available)[:wanted])
                _session = InferenceSession(devices=[CPU()])
            finally:
                os.sched_setaffinity(0, available)
            _threads = wanted
        elif cpu_threads not in (0, _threads):
            raise UsageError(
                f"cpu_threads is {cpu_threads}, but this process already runs MAX on {_threads} thread(s), shared by "
                "all its models: give every model the same number, or load this one in another process"
            )
        return _session
