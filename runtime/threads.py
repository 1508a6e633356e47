"""The MAX session of this process, and how many threads it runs graphs on.

MAX keeps one thread pool per process, as wide as the CPUs that its creator may run on;
`InferenceSession(num_threads=...)` aborts the process in 26.7 when the width differs. So the pool is
created under a CPU affinity of the width asked for, and every model of the process shares it. Its threads inherit that
affinity and get back the whole one: processes with a few threads each must not meet on the first CPUs of a machine.

A fork copies the session without its threads, and whatever is done with it then, even its end, waits for them forever.
"""

import contextlib
import ctypes
import os
import threading
import weakref
from typing import TYPE_CHECKING

from whisper2max.core.errors import UsageError
from whisper2max.runtime.quota import quota_of_cpus

if TYPE_CHECKING:
    from max.driver import Device
    from max.engine import InferenceSession

_lock = threading.Lock()
_users: "weakref.WeakSet[object]" = weakref.WeakSet()
_session: "InferenceSession | None" = None
_threads = 0
_process = 0


def was_forked() -> bool:
    """Whether MAX was started by the process that this one was forked from."""
    return _session is not None and os.getpid() != _process


def require_same_process() -> None:
    """To be called before anything of MAX is used.

    Raises:
        UsageError: MAX was started by the process that this one was forked from.
    """
    if was_forked():
        raise UsageError(
            "this process was forked from one that had loaded a model, and the threads that run it did not come along: "
            "load models after the fork, or start processes by multiprocessing's spawn method"
        )


def keep_in_children(user: object) -> None:
    """What holds objects of MAX stays as it is in a process that is forked: they could not be destroyed there."""
    _users.add(user)


def _leave_max_alone_at_the_end() -> None:
    """Keeps the destructors of MAX, in Python's objects and in its library, from running when this process ends."""
    for user in (_session, *_users):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(user))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc; what is registered last is called first, with the exit status
        libc.on_exit(libc._exit, None)


def _session_of(wanted: int, available: set[int]) -> "InferenceSession":
    """A session of so many threads, all of which may run on all CPUs that are available."""
    from max.driver import CPU  # loads MAX, which nothing but a session needs
    from max.engine import InferenceSession

    before = set(os.listdir("/proc/self/task"))
    try:
        os.sched_setaffinity(0, sorted(available)[:wanted])
        return InferenceSession(devices=[CPU()])
    finally:
        for thread in {"0"} | (set(os.listdir("/proc/self/task")) - before):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread), available)


def gpu_session(device: "Device", cpu_threads: int = 0) -> "InferenceSession":
    """A session on a GPU, beside that of the CPU, which is made first; as `shared_session`."""
    from max.engine import InferenceSession

    shared_session(cpu_threads)
    return InferenceSession(devices=[device])


def shared_session(cpu_threads: int = 0) -> "InferenceSession":
    """The session of this process.

    Args:
        cpu_threads: width of the pool; 0 takes the CPUs that this process may run on, or fewer where its control groups
            grant it less CPU time than that; or the pool as it is.

    Raises:
        UsageError: fewer than 0 or more than there are CPUs, the pool exists with another width, or it is that of
            another process.
    """
    global _session, _threads, _process
    require_same_process()  # before the lock, which may have been held when the process was forked
    available = os.sched_getaffinity(0)
    if not 0 <= cpu_threads <= len(available):
        raise UsageError(f"cpu_threads is {cpu_threads}; this process may use 1 to {len(available)} CPUs, or 0 for all")
    with _lock:
        if _session is None:
            wanted = cpu_threads or min(len(available), quota_of_cpus() or len(available))
            _session = _session_of(wanted, available)
            _threads, _process = wanted, os.getpid()
            os.register_at_fork(after_in_child=_leave_max_alone_at_the_end)
        elif cpu_threads not in (0, _threads):
            raise UsageError(
                f"cpu_threads is {cpu_threads}, but this process already runs MAX on {_threads} thread(s), shared by "
                "all its models: give every model the same number, or load this one in another process"
            )
        return _session
