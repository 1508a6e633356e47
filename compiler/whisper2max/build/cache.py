"""The user's cache of compiled graphs, so that a graph is compiled once per machine and not once per model.

    CACHE/graphs/NAME-KEY/NAME.mef      one compiled graph
    CACHE/graphs/NAME-KEY/entry.json    its sha256, size, date and whatever the compiler noted about it
    CACHE/locks/KEY[-NAME].lock         held while the graphs, or one graph, of this key are compiled

The key is a hash of everything that the compiled graph depends on. Entries are native code that later runs
with the user's rights, so the cache is private: its directory has mode 0700, and is refused where another
user could write to it. The recorded sha256 finds damage, not an attacker who may write there anyway. What `get` gives
is open, so that what was compared is what is used.

Entries appear whole, by one rename, and are never changed; writers need no lock to be safe. The lock only
spares the second of two processes the minutes of compiling the same graph.

This module imports neither torch nor max.
"""

import fcntl
import json
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whisper2max.core import strict_json
from whisper2max.core.errors import ArtifactError, UsageError
from whisper2max.core.held import HeldFile
from whisper2max.core.partials import PartialDirectory, sweep, sync_tree, tree_bytes

_KEY = re.compile(r"[0-9a-f]{16,128}")
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_LOCK = re.compile(rf"{_KEY.pattern}(-{_NAME.pattern})?")
_RECORD = "entry.json"
_RECORD_TEXTS = {
    "key": _KEY,
    "name": _NAME,
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "created": re.compile(r"[-+:T0-9]{10,40}"),
}
_MOST_RECORD = 1 << 16


@dataclass(frozen=True)
class Entry:
    """One compiled graph of the cache.

    Attributes:
        key: hash of all that the graph depends on, hexadecimal.
        name: of the graph, such as "encoder".
        bytes: size of the compiled graph.
        created: ISO date and time, UTC.
        info: what the compiler noted: versions, target, dims.
    """

    key: str
    name: str
    bytes: int
    created: str
    info: dict[str, Any]


def cache_dir() -> Path:
    """The cache directory, made if it is missing, with mode 0700.

    It is $WHISPER2MAX_CACHE, else $XDG_CACHE_HOME/whisper2max, else ~/.cache/whisper2max.

    Raises:
        UsageError: it cannot be made, or another user owns it or could write to it.
    """
    if chosen := os.environ.get("WHISPER2MAX_CACHE"):
        return _private_directory(Path(chosen).absolute())
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    if os.path.isabs(xdg):
        return _private_directory(Path(xdg, "whisper2max"))
    try:
        return _private_directory(Path.home() / ".cache" / "whisper2max")
    except RuntimeError as error:
        raise UsageError(f"There is no home directory to keep compiled graphs in. {_CHOOSE}") from error


class GraphCache:
    """Compiled graphs by key and name.

    Attributes:
        root: the cache directory.
    """

    def __init__(self, root: str | Path | None = None):
        """Opens the cache, and makes it if it is missing.

        Args:
            root: the directory; `cache_dir()` by default.

        Raises:
            UsageError: the directory cannot be made or is not private.
        """
        self.root = cache_dir() if root is None else _private_directory(Path(root).absolute())
        self._graphs = _private_directory(self.root / "graphs")
        self._locks = _private_directory(self.root / "locks")

    def get(self, key: str, name: str) -> HeldFile | None:
        """The compiled graph, open, or None if there is none.

        Its sha256 is compared with the recorded one. A damaged entry is removed with a warning and counts as
        a miss, so that the graph is compiled again.
        """
        directory = self._directory(key, name)
        if not directory.is_dir():
            return None
        try:
            return self._intact(directory, key, name)
        except (OSError, ArtifactError) as error:
            if not directory.is_dir():
                return None  # cleared by another process in this moment
            problem = str(error).rstrip(".")
        self._remove(directory)
        warnings.warn(
            f"The cached graph {name} ({key[:12]}) was damaged and has been removed: {problem}. "
            "It will be compiled again.",
            stacklevel=2,
        )
        return None

    def put(self, key: str, name: str, mef_path: str | Path, info: dict[str, Any]) -> HeldFile:
        """Copies a compiled graph into the cache. An intact entry that is already there stays.

        Args:
            info: anything JSON can hold that helps to tell entries apart, such as versions and dims.

        Returns:
            the graph in the cache, open.

        Raises:
            UsageError: the cache cannot be written, for instance because its disk is full.
        """
        directory = self._directory(key, name)
        try:
            sweep(self._graphs, directory.name)
            partial = PartialDirectory(self._graphs, directory.name)
            try:
                self._fill(partial.path, key, name, Path(mef_path), info)
                if kept := self.get(key, name):
                    return kept
                # opened before it gets its name, under which another process may remove it at once
                filled = self._intact(partial.path, key, name)
                try:
                    os.rename(partial.path, directory)
                except OSError:
                    # Another process was faster, with a graph of the same key.
                    if kept := self.get(key, name):
                        return kept
                    raise
                filled.path = directory / f"{name}.mef"
                return filled
            finally:
                partial.discard()
        except OSError as error:
            raise UsageError(
                f"The compiled graph {name} cannot be kept in {self.root} ({error}). Free space on that "
                "disk, or set WHISPER2MAX_CACHE to another directory."
            ) from error

    def entries(self) -> list[Entry]:
        """All readable entries, the oldest first. Their hashes are not compared here, but by `get`."""
        found = []
        for directory in self._graphs.iterdir():
            if directory.name.startswith("."):
                continue
            try:
                record = _read_record(directory)
            except (OSError, ArtifactError):
                continue
            found.append(Entry(**{field.name: record[field.name] for field in fields(Entry)}))
        return sorted(found, key=lambda entry: (entry.created, entry.name, entry.key))

    def clear(self) -> int:
        """Removes all entries and leftovers, and gives the bytes freed.

        Entries whose key another process has locked are in use and stay.
        """
        freed = sweep(self._graphs)
        for directory in list(self._graphs.iterdir()):
            name, _, key = directory.name.rpartition("-")
            if not (_NAME.fullmatch(name) and _KEY.fullmatch(key)):
                continue
            with self._locked_now(key) as whole, self._locked_now(f"{key}-{name}") as single:
                if whole and single:
                    freed += self._remove(directory)
        for path in list(self._locks.glob("*.lock")):
            with self._locked_now(path.stem) as locked:
                if locked:
                    path.unlink(missing_ok=True)
        return freed

    @contextmanager
    def lock(self, key: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Holds the key, so that no other process or thread holds it; waits as long as one does.

            with cache.lock(key):
                path = cache.get(key, "encoder") or cache.put(key, "encoder", compile(), info)

        The kernel drops the lock when its holder ends, however it ends. It cannot be taken twice: a thread
        that holds a key and locks it again waits for itself.

        Args:
            key: KEY, or KEY-NAME to hold one graph of that key only; the two do not exclude each other.
            on_wait: called once if the lock is not free, to tell the user.
        """
        descriptor = self._acquire(key, wait=False)
        if descriptor is None:
            if on_wait:
                on_wait()
            descriptor = self._acquire(key, wait=True)
        try:
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked_now(self, key: str) -> Iterator[bool]:
        """Holds the lock if it is free in this moment; gives whether it was."""
        descriptor = self._acquire(key, wait=False)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _acquire(self, key: str, wait: bool) -> int | None:
        """A descriptor that holds the lock until it is closed; None if it is not free and `wait` is false."""
        if not _LOCK.fullmatch(key):
            raise ValueError(f"{key!r} is neither a cache key (16 to 128 hexadecimal digits) nor KEY-NAME")
        path = self._locks / f"{key}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                # `clear` unlinks lock files: a lock on a file that is no longer there excludes nobody.
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                return None
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _directory(self, key: str, name: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"cache key {key!r} is not 16 to 128 lower-case hexadecimal digits")
        if not _NAME.fullmatch(name):
            raise ValueError(f"graph name {name!r} is not made of letters, digits and underscores")
        return self._graphs / f"{name}-{key}"

    def _fill(self, directory: Path, key: str, name: str, mef: Path, info: dict[str, Any]) -> None:
        compiled = HeldFile(mef, ArtifactError)
        compiled.copy_to(directory / f"{name}.mef")
        record = {
            "key": key,
            "name": name,
            "sha256": compiled.sha256,
            "bytes": compiled.size,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "info": info,
        }
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        (directory / _RECORD).write_text(text, encoding="utf-8")
        sync_tree(directory)

    def _remove(self, directory: Path) -> int:
        """Takes an entry away in one step, then deletes it; gives the bytes freed."""
        aside = PartialDirectory(self._graphs, directory.name)
        try:
            os.rename(directory, aside.path)
            return tree_bytes(aside.path)
        except FileNotFoundError:
            return 0
        finally:
            aside.discard()

    def _intact(self, directory: Path, key: str, name: str) -> HeldFile:
        record = _read_record(directory)
        if (record["key"], record["name"]) != (key, name):
            raise ArtifactError("its record is that of another graph")
        mef = HeldFile(directory / f"{name}.mef", ArtifactError, follow=False)
        if mef.size != record["bytes"] or mef.sha256 != record["sha256"]:
            raise ArtifactError("its sha256 is not the recorded one")
        return mef


_CHOOSE = "Set WHISPER2MAX_CACHE to a directory that belongs to you and nobody else can write to."


def _private_directory(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise UsageError(f"The cache of compiled graphs cannot be kept in {path} ({error}). {_CHOOSE}") from error
    if status.st_uid != os.geteuid():
        raise UsageError(
            f"The cache directory {path} belongs to another user (id {status.st_uid}), who could put native "
            f"code into it that you would run. {_CHOOSE}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"The cache directory {path} can be written by other users (mode "
            f"{stat.S_IMODE(status.st_mode):04o}), who could put native code into it that you would run. Run "
            f"`chmod go-w {path}`. {_CHOOSE}"
        )
    return path


def _read_record(directory: Path) -> dict[str, Any]:
    path = directory / _RECORD
    content = HeldFile(path, ArtifactError, follow=False).read(_MOST_RECORD)
    record = strict_json.parse(content, path, ArtifactError, "It is not a record of this cache.")
    wrong = [name for name, form in _RECORD_TEXTS.items() if not form.fullmatch(str(record.get(name)))]
    wrong += ["bytes"] if type(record.get("bytes")) is not int or record["bytes"] < 0 else []
    wrong += ["info"] if not isinstance(record.get("info"), dict) else []
    if wrong:
        raise ArtifactError(f"{path} has no usable {', '.join(wrong)}")
    return record
