"""Files that are held open, so that what was checked is what is used.

A name can lead to other bytes from one moment to the next. A `HeldFile` follows its name once; hash, content, map and
copy all go through that one descriptor, and `require_unchanged` says whether the bytes behind it are still those that
were hashed. Only regular files are held: a pipe or a device would block, or never end.
"""

import hashlib
import mmap
import os
import stat
import threading
import weakref
from functools import cached_property
from pathlib import Path

from whisper2max.errors import Whisper2MaxError

_CHUNK = 1 << 20


class HeldFile:
    """A regular file, opened once for reading.

    Attributes:
        path: its name when it was opened, for messages.
        size: bytes when it was opened.
    """

    def __init__(self, path: str | os.PathLike[str], error: type[Whisper2MaxError], follow: bool = True):
        """Opens the file.

        Args:
            path: its name.
            error: what to raise when it cannot be used.
            follow: whether the name itself may be a symbolic link.

        Raises:
            Whisper2MaxError: of the type asked for; the file is missing, not regular, or cannot be read.
        """
        self.path = Path(path)
        self._error = error
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
        try:
            if not stat.S_ISREG(os.stat(path, follow_symlinks=follow).st_mode):
                raise error(f"{self.path} is not a regular file, and nothing else is read.")
            self._descriptor = os.open(path, flags)
        except OSError as failure:
            raise error(f"{self.path} cannot be opened ({failure.strerror}).") from failure
        except ValueError as failure:
            raise error(f"{self.path} cannot be a file name ({failure}).") from failure
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self._opened = os.fstat(self._descriptor)
        self._lock = threading.Lock()
        # a device may have taken the place of the file between the two calls; opening one for reading does no harm
        if not stat.S_ISREG(self._opened.st_mode):
            self.close()
            raise error(f"{self.path} is not a regular file, and nothing else is read.")
        self.size = self._opened.st_size

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, 64 hexadecimal digits; read when it is first asked for."""
        with self._lock:
            return self._hash()

    def read(self, most: int) -> bytes:
        """The content, which is what `sha256` is of.

        Raises:
            Whisper2MaxError: it has more than `most` bytes, or is not what was hashed.
        """
        if self.size > most:
            raise self._error(f"{self.path} has {self.size:,} bytes; no such file of a Whisper has more than {most:,}.")
        content = b"".join(self._chunks())
        digest = hashlib.sha256(content).hexdigest()
        if self.__dict__.setdefault("sha256", digest) != digest:
            raise self._changed()
        return content

    def map(self) -> mmap.mmap:
        """The content in memory, unread; changes of the map do not reach the file.

        Raises:
            Whisper2MaxError: the file is empty.
        """
        if self.size == 0:
            raise self._error(f"{self.path} is empty.")
        return mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_COPY)

    @property
    def by_descriptor(self) -> Path:
        """A name that leads to the held file whatever its own name leads to now, for libraries that open by name."""
        return Path(f"/proc/self/fd/{self._descriptor}")

    def copy_to(self, destination: Path) -> None:
        """Writes the content to a new file.

        Raises:
            Whisper2MaxError: it is not what was hashed.
        """
        digest = hashlib.sha256()
        with open(destination, "xb") as copy:
            for chunk in self._chunks():
                copy.write(chunk)
                digest.update(chunk)
        if self.__dict__.setdefault("sha256", digest.hexdigest()) != digest.hexdigest():
            raise self._changed()

    def require_unchanged(self, *, reread: bool = False) -> None:
        """To be called when the content was used, by a map or through `by_descriptor`.

        The kernel notes every change of a file; where it notes one, or with `reread`, the content is hashed again.

        Raises:
            Whisper2MaxError: another file has taken the name, or the content is not what was hashed.
        """
        if self._is_untouched() and not reread:
            return
        try:
            named = os.stat(self.path, follow_symlinks=True)
        except OSError:
            named = None  # removed, or moved with its directory: what is held is still whole
        if named is not None and not os.path.samestat(named, self._opened):
            raise self._changed()
        if self._hash() != self.sha256:
            raise self._changed()

    def _is_untouched(self) -> bool:
        now = os.fstat(self._descriptor)
        return all(
            getattr(now, name) == getattr(self._opened, name) for name in ("st_size", "st_mtime_ns", "st_ctime_ns")
        )

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def _chunks(self):
        at = 0
        while chunk := os.pread(self._descriptor, _CHUNK, at):
            yield chunk
            at += len(chunk)

    def _changed(self) -> Whisper2MaxError:
        return self._error(
            f"{self.path} was changed while it was in use: its content is no longer what was checked. "
            "Keep others from writing there, and try again."
        )
