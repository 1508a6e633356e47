"""Files that are held open, so that what was checked is what is used.

A name can lead to other bytes from one moment to the next. A `HeldFile` follows its name once; hash, content, map and
copies all go through that one descriptor, and `require_unchanged` says whether the bytes behind it are still those that
were hashed. Only regular files are held: a pipe or a device would block, or never end.

`read`, `sealed`, `copy_to` and `link_to` give what was hashed, whatever happens at the same time. A map shows the file
as it is in each moment: whoever can write the file can change what is mapped, and `require_unchanged` tells of it by
the times that the kernel keeps, which it brings up to date late for what is written through a shared map; only
`reread` sees that at once.
"""

import fcntl
import hashlib
import mmap
import os
import stat
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from whisper2max.core.errors import Whisper2MaxError
from whisper2max.core.printable import shortened

_CHUNK = 1 << 20
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_CLOCK_TICK_NS = 50_000_000  # the kernel's file times advance in steps of up to 10 ms


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
        self._note_times()
        self._lock = threading.Lock()
        # a device may have taken the place of the file between the two calls; opening one for reading does no harm
        if not stat.S_ISREG(self._noted.st_mode):
            self.close()
            raise error(f"{self.path} is not a regular file, and nothing else is read.")
        self.size = self._noted.st_size

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, 64 hexadecimal digits; read when it is first asked for."""
        with self._lock:
            self._note_times()
            return self._hash()

    def read(self, most: int) -> bytes:
        """The content, whose hash is `sha256`.

        Raises:
            Whisper2MaxError: it has more than `most` bytes, or is not what was hashed.
        """
        if self.size > most:
            raise self._error(f"{self.path} has {self.size:,} bytes; no such file of a Whisper has more than {most:,}.")
        self._note_times_if_new()
        content = b"".join(self._chunks())
        self._require(hashlib.sha256(content).hexdigest())
        return content

    def read_at(self, begin: int, most: int) -> bytes:
        """At most `most` bytes from `begin` on, as they are now; to be followed by `require_unchanged`."""
        return os.pread(self._open_descriptor, most, begin)

    def map(self) -> mmap.mmap:
        """The content in memory, unread; changes of the map do not reach the file.

        Raises:
            Whisper2MaxError: the file is empty, or shorter than it was.
        """
        if self.size == 0:
            raise self._error(f"{self.path} is empty.")
        try:
            return mmap.mmap(self._open_descriptor, self.size, access=mmap.ACCESS_COPY)
        except ValueError as failure:  # it is shorter now
            raise self._changed() from failure

    @contextmanager
    def sealed(self) -> Iterator[Path]:
        """The name of a copy in memory that nobody can change, this process included, while the context lasts.

        What maps the copy may keep it afterwards. For native code, which is small.

        Raises:
            Whisper2MaxError: the content is not what was hashed.
        """
        descriptor = os.memfd_create(self.path.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            self._copy(descriptor)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def copy_to(self, destination: Path) -> None:
        """Writes the content to a new file.

        Raises:
            Whisper2MaxError: it is not what was hashed.
        """
        descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            self._copy(descriptor)
        finally:
            os.close(descriptor)

    def link_to(self, destination: Path) -> None:
        """Gives the held file a second name where the disk allows it, else copies it.

        Raises:
            Whisper2MaxError: it was copied, and is not what was hashed.
        """
        # Python follows a link that it is to make another name for only if it is given a directory
        folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(str(self._open_descriptor), destination, src_dir_fd=folder, follow_symlinks=True)
        except OSError:  # another disk, one without links, or a file that has no name any more
            self.copy_to(destination)
        finally:
            os.close(folder)

    def require_unchanged(self, *, reread: bool = False) -> None:
        """Raise unless the content is still what was hashed; to be called after a map of it was used.

        Where the kernel's times say that the file was touched, or with `reread`, the content is hashed again. If it
        was not hashed before, nothing can be compared, and a file that was touched counts as changed.

        Raises:
            Whisper2MaxError: another file has taken the name, or the content is not what was hashed.
        """
        try:
            named = os.stat(self.path)
        except OSError:
            named = None  # removed, or moved with its directory: what is held is still whole
        if named is not None and not os.path.samestat(named, self._noted):
            raise self._changed()
        has_its_times = self._has_its_times()
        if "sha256" not in self.__dict__:
            if not has_its_times:
                raise self._changed()
        elif reread or not self._times_tell or not has_its_times:
            self._note_times()
            if self._hash() != self.sha256:
                raise self._changed()

    @property
    def _open_descriptor(self) -> int:
        # the number of a closed descriptor soon belongs to another file
        if not self.close.alive:
            raise self._error(f"{self.path} was closed and cannot be read any more.")
        return self._descriptor

    def _note_times(self) -> None:
        """Remember the file's times; called before the read whose content they stand for."""
        self._noted = os.fstat(self._open_descriptor)
        # a change in the tick of the clock that the file already bears leaves no later time behind
        self._times_tell = time.time_ns() - self._noted.st_ctime_ns > _CLOCK_TICK_NS

    def _note_times_if_new(self) -> None:
        if "sha256" not in self.__dict__:
            self._note_times()

    def _has_its_times(self) -> bool:
        now = os.fstat(self._open_descriptor)
        names = ("st_size", "st_mtime_ns", "st_ctime_ns")
        return all(getattr(now, name) == getattr(self._noted, name) for name in names)

    def _copy(self, descriptor: int) -> None:
        self._note_times_if_new()
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
            while chunk:
                chunk = chunk[os.write(descriptor, chunk) :]
        self._require(digest.hexdigest())

    def _require(self, digest: str) -> None:
        if self.__dict__.setdefault("sha256", digest) != digest:
            raise self._changed()

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def _chunks(self) -> Iterator[bytes]:
        at = 0
        while chunk := os.pread(self._open_descriptor, _CHUNK, at):
            at += len(chunk)
            if at > self.size:  # it may grow faster than it is read
                raise self._changed()
            yield chunk

    def _changed(self) -> Whisper2MaxError:
        return self._error(
            f"{self.path} was changed while it was in use: its content is no longer what was checked. "
            "Keep others from writing there, and try again."
        )


class HeldFiles(Mapping[str, HeldFile]):
    """Files of a directory, held by their names relative to it.

    Attributes:
        directory: where they were opened.
    """

    def __init__(self, directory: str | os.PathLike[str], names: Iterable[str], error: type[Whisper2MaxError]):
        """Opens the files.

        Raises:
            Whisper2MaxError: as for `HeldFile`; none may be a symbolic link.
        """
        self.directory = Path(directory)
        self._error = error
        self._files: dict[str, HeldFile] = {}
        self.hold(names)

    def hold(self, names: Iterable[str]) -> None:
        """Opens more files of the directory."""
        for name in names:
            self._files[name] = HeldFile(self.directory / name, self._error, follow=False)

    def __getitem__(self, name: str) -> HeldFile:
        return self._files[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def sha256(self) -> dict[str, str]:
        """The hash of each file by name. hashlib releases the GIL, so several are hashed side by side."""
        by_size = sorted(self, key=lambda name: self[name].size, reverse=True)
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            return dict(zip(by_size, pool.map(lambda name: self[name].sha256, by_size), strict=True))

    def require_sha256(self, expected: Mapping[str, str]) -> None:
        """Requires that files, by name, are the ones that had these hashes when they were written.

        Raises:
            Whisper2MaxError: one is another; it is named.
        """
        moved = [name for name, digest in expected.items() if self[name].sha256 != digest]
        if moved:
            raise self._error(
                f"{shortened(moved)} in {self.directory} changed after it was written there. Keep others from writing "
                "there, and try again."
            )

    def require_unchanged(self, *, reread: bool = False) -> None:
        """`HeldFile.require_unchanged` of every file."""
        for file in self.values():
            file.require_unchanged(reread=reread)

    def close(self) -> None:
        """Closes the files; what was mapped stays."""
        for file in self.values():
            file.close()
