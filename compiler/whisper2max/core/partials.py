"""Directories that appear under their final name only when they are complete.

A partial directory lies beside its destination, so that a rename can put it there, and is called
`.NAME.partial-PID-RANDOM`. Its maker holds a lock on it that the kernel drops when the maker dies, however
it dies: `sweep` removes partial directories that nobody holds. (The process id is for people who look
around; it would be no proof, since ids are reused, and differ between containers that share a volume.)
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class PartialDirectory:
    """An empty directory, created and locked by this process.

    Attributes:
        path: where it lies.
    """

    def __init__(self, parent: Path, name: str):
        """Creates `.NAME.partial-PID-RANDOM` in an existing directory.

        Raises:
            OSError: the parent does not allow it.
        """
        while True:
            self.path = parent / f".{name}.partial-{os.getpid()}-{secrets.token_hex(4)}"
            self.path.mkdir()
            if self._lock():
                return

    def release(self) -> None:
        """Gives up the lock, once the directory has been moved away or removed."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def discard(self) -> None:
        """Removes whatever lies at `path` and gives up the lock."""
        remove_tree(self.path)
        self.release()

    def _lock(self) -> bool:
        """False when a sweep of another process took the directory between its creation and the lock."""
        self._descriptor = None
        try:
            self._descriptor = _open_directory(self.path)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FileNotFoundError, BlockingIOError):
            self.release()
            return False
        except OSError:
            if self._descriptor is None:
                raise
            # A filesystem without locks, such as some NFS mounts: there a sweep cannot lock either, and
            # leaves all partial directories alone.
            return True
        if not self.path.exists():
            self.release()
            return False
        return True


def sweep(parent: Path, name: str | None = None) -> int:
    """Removes the partial directories in `parent` whose makers are dead, and returns the bytes freed.

    Args:
        name: only those made for this name; by default those of any name.
    """
    pattern = re.compile(rf"\.{re.escape(name) if name else '.+'}\.partial-\d+-[0-9a-f]{{8}}")
    freed = 0
    for path in list(parent.iterdir()):
        if not pattern.fullmatch(path.name):
            continue
        try:
            descriptor = _open_directory(path)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            freed += tree_bytes(path)
            remove_tree(path)
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return freed


def tree_bytes(directory: Path) -> int:
    """The sizes of all files under a directory, added up."""
    total = 0
    waiting = [os.fspath(directory)]  # `os.walk` calls itself for every level, and gives up at some
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


def remove_tree(directory: Path) -> None:
    """Removes a directory and all in it, as far as possible; links are not followed."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except RecursionError:
        pass  # a thousand directories in each other, which nothing of ours made, stay


def exchange(first: Path, second: Path) -> None:
    """Swaps two directories in one atomic step (Linux renameat2 with RENAME_EXCHANGE).

    Raises:
        OSError: the filesystem or the C library cannot do it (EINVAL, ENOSYS or EXDEV), or one is missing.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), os.fspath(second))
    renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(second))


def sync_tree(directory: Path) -> None:
    """Forces the files of a directory, and then its entries, to the disk."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))


def sync(path: Path) -> None:
    """Forces one file, or the entries of one directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE filesystems have no fsync; there is nothing more to be done on those.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
