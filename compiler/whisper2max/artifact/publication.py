"""Publishing: an output directory is the complete old artifact or the complete new one, at every moment.

A new artifact is made in a partial directory beside the output, forced to the disk, and then takes the
output's place in one atomic step: a rename when there is none, an exchange of the two directories
(renameat2, RENAME_EXCHANGE) when there is, after which the old one is removed. A process that is killed
leaves at most a partial directory, which the next publication of the same output removes.

A filesystem that cannot exchange directories is refused before any work is done. Two renames in a row would
leave a moment with no artifact at all, and a fresh output needs no exchange: the user is told to use one.
"""

import errno
import os
import shutil
import warnings
from datetime import UTC, datetime
from pathlib import Path

from whisper2max.artifact.artifact import FAILED_SUFFIX
from whisper2max.artifact.listing import MANIFEST, check_listing, scan
from whisper2max.artifact.manifest import FAILED_MARKER, read_json_object, read_manifest
from whisper2max.core.errors import ArtifactError, UsageError, Whisper2MaxError
from whisper2max.core.partials import PartialDirectory, exchange, remove_tree, sweep, sync, sync_tree, tree_bytes

#: What a failed conversion keeps: sources and reports; neither compiled graphs nor weights nor the manifest.
FAILED_KEEPS = frozenset({".py", ".mojo", ".json", ".html", ".txt", ".md", ".toml"})

_PLENTY = 64 << 20
_WHAT_TO_LOOK_AT = {
    "parity.html": "which layer diverges first, by how much and on which input",
    "parity.json": "the same figures for programs",
    "model.py": "the generated graph builders",
}


class Publication:
    """A context in which an artifact is made, and at whose end it appears under its name.

        publication = Publication(Path("artifacts/base"), force=True)
        with publication as staging:
            ...                                  # write files into staging
            write_manifest(staging, fields)
            if not report.passed:
                publication.fail("...")          # nothing is published, artifacts/base.failed/ is left
                raise ParityError("...")

    An exception removes everything that was written. Several processes may publish the same output at once:
    each replaces it as a whole, the last one wins.

    Attributes:
        output: the directory to publish, as given.
        failed: where `fail` leaves the remains, OUTPUT.failed.
    """

    def __init__(self, output: str | Path, force: bool = False):
        """Nothing is touched before the context is entered.

        Args:
            output: the directory to publish. Missing parents are made. A link is followed.
            force: allow an existing artifact to be replaced. A directory that is neither empty nor an
                artifact is never replaced.
        """
        self.output = Path(output)
        self.failed = Path(f"{os.path.normpath(output)}{FAILED_SUFFIX}")
        self._destination = Path(os.path.realpath(output))
        self._failed_destination = Path(f"{self._destination}{FAILED_SUFFIX}")
        self._parent = self._destination.parent
        self._force = force
        self._made_parents: list[Path] = []
        self._partial: PartialDirectory | None = None

    def __enter__(self) -> Path:
        """Checks the destination, removes leftovers of killed processes and gives the directory to write to.

        Raises:
            UsageError: the output cannot be a new directory, or exists and may not be replaced.
            ArtifactError: the filesystem cannot exchange directories.
        """
        try:
            self._check_name()
            self._make_parents()
            occupied = self._check_replaceable()
            self._check_failed_replaceable()
            sweep(self._parent, self._destination.name)
            self._partial = PartialDirectory(self._parent, self._destination.name)
            if occupied:
                self._check_exchange()
        except OSError as error:
            self._abandon(error)
            raise UsageError(
                f"{self.output} cannot be written ({error}). Choose an --output in a directory that this "
                "user can write to."
            ) from error
        except BaseException as error:
            self._abandon(error)
            raise
        return self._partial.path

    def __exit__(self, kind, error, traceback) -> None:
        if self._partial is None:
            return
        if error is not None:
            self._abandon(error)
            return
        try:
            self._publish()
        except BaseException as failure:
            self._abandon(failure)
            raise

    def fail(self, reason: str) -> Path:
        """Publishes nothing; what helps to find the cause goes to OUTPUT.failed, in place of an older one.

        Files whose suffix is in `FAILED_KEEPS` are kept, the manifest is not, and FAILED.txt, one paragraph,
        says why and what to look at. The directory cannot be opened as an artifact. To be called inside the
        context, at most once; an existing artifact at the output stays as it was.

        Args:
            reason: what failed, as one or more whole sentences.

        Returns:
            the path of OUTPUT.failed.
        """
        staging = self._partial.path
        try:
            _keep_only_sources_and_reports(staging)
            (staging / FAILED_MARKER).write_text(self._failure_text(staging, reason), encoding="utf-8")
            sync_tree(staging)
            self._check_failed_replaceable()
            remove_tree(self._failed_destination)
            os.rename(staging, self._failed_destination)
            sync(self._parent)
        except BaseException as error:
            self._abandon(error)
            raise
        self._partial.release()
        self._partial = None
        return self.failed

    def _check_name(self) -> None:
        if self._destination == self._parent or self._destination.name.endswith(FAILED_SUFFIX):
            raise UsageError(
                f"{self.output} cannot be the name of an artifact: names that end in {FAILED_SUFFIX} are "
                "kept for what failed conversions leave. Choose another --output."
            )
        if Path.cwd().is_relative_to(self._destination) and self._destination.exists():
            raise UsageError(
                f"{self.output} is the current directory or contains it, and a directory that is published "
                "is replaced as a whole. Name another --output, such as a new directory inside it."
            )
        if self._destination.is_mount() and self._destination.is_dir():
            raise UsageError(
                f"{self.output} is a mount point, which cannot be replaced as a whole. Name a directory "
                f"inside it, such as --output {self.output / 'base'}."
            )

    def _make_parents(self) -> None:
        """Makes missing parents, and remembers them so that a run that fails leaves none behind."""
        missing = []
        for parent in self._destination.parents:
            if os.path.lexists(parent):
                if not parent.is_dir():
                    raise UsageError(
                        f"{self.output} cannot be made: {parent} is a file. Choose an --output in a directory."
                    )
                break
            missing.append(parent)
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            self._made_parents.append(parent)

    def _check_replaceable(self) -> bool:
        """Whether the output exists and is not an empty directory.

        Raises:
            UsageError: it exists and may not be replaced.
        """
        destination = self._destination
        if not os.path.lexists(destination):
            return False
        if not destination.is_dir():
            raise UsageError(f"{self.output} is a file; an artifact is a directory. Choose another --output.")
        if not os.listdir(destination):
            return False
        if not _is_artifact(destination):
            raise UsageError(
                f"{self.output} exists and is not an artifact, so it is never overwritten. Choose another "
                "--output, or move that directory away."
            )
        if not self._force:
            raise UsageError(f"{self.output} exists already. Give --force to replace it, or choose another --output.")
        return True

    def _check_failed_replaceable(self) -> None:
        failed = self._failed_destination
        if not os.path.lexists(failed):
            return
        ours = failed.is_dir() and not failed.is_symlink()
        if not ours or (os.listdir(failed) and not (failed / FAILED_MARKER).is_file()):
            raise UsageError(
                f"{self.failed} exists and is not what a failed conversion left, so it is never overwritten; "
                "should this conversion fail, its reports need that name. Move it away, or choose another "
                "--output."
            )

    def _check_exchange(self) -> None:
        first, second = self._partial.path / "first", self._partial.path / "second"
        first.mkdir()
        second.mkdir()
        try:
            exchange(first, second)
        except OSError as error:
            raise self._cannot_exchange(error) from error
        first.rmdir()
        second.rmdir()

    def _cannot_exchange(self, error: OSError) -> ArtifactError:
        return ArtifactError(
            f"{self.output} cannot be replaced in one step: its filesystem cannot exchange directories "
            f"({error.strerror}), and anything less could lose both artifacts. Remove it yourself first, or "
            "choose an --output that does not exist yet."
        )

    def _publish(self) -> None:
        staging = self._partial.path
        if not (staging / MANIFEST).is_file():
            raise ArtifactError(
                f"Nothing was published as {self.output}: no {MANIFEST} was written. This is an error in whisper2max."
            )
        check_listing(staging, read_manifest(staging))
        sync_tree(staging)
        replaced = self._put_in_place(staging)
        sync(self._parent)
        self._partial.discard()
        self._partial = None
        if replaced and os.path.lexists(staging):
            warnings.warn(
                f"{self.output} was replaced, but the old artifact could not be removed: delete {staging}.",
                stacklevel=3,
            )

    def _put_in_place(self, staging: Path) -> bool:
        """Whether an older artifact was replaced; it then lies at `staging`.

        The rename is tried first, since it succeeds only where nothing or an empty directory is: whatever
        another process does in between, nothing is replaced that was not looked at.
        """
        while True:
            try:
                os.rename(staging, self._destination)
                return False
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            if not self._check_replaceable():
                continue
            try:
                exchange(staging, self._destination)
                return True
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._cannot_exchange(error) from error

    def _abandon(self, error: BaseException) -> None:
        """Removes what was written. Raises an ArtifactError if a full disk is behind `error`."""
        written, free = 0, 0
        if self._partial is not None:
            written, free = tree_bytes(self._partial.path), shutil.disk_usage(self._parent).free
            self._partial.discard()
            self._partial = None
        for parent in reversed(self._made_parents):
            try:
                parent.rmdir()
            except OSError:
                break
        # The exception may be about another disk, such as that of temporary files.
        full = _disk_full_code(error)
        if full == errno.EDQUOT or (full == errno.ENOSPC and free < _PLENTY):
            raise self._disk_full(written, error) from error

    def _disk_full(self, written: int, error: BaseException) -> ArtifactError:
        existing = next(path for path in (self._parent, *self._parent.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        return ArtifactError(
            f"The disk of {self.output} is full ({error}): {written:,} bytes of the artifact were written "
            f"and have been removed again; it needs more than the {free:,} bytes that are free now. Free "
            "some space, or choose an --output on another disk. An artifact that existed before is untouched."
        )

    def _failure_text(self, staging: Path, reason: str) -> str:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        clues = [f"{name} ({what})" for name, what in _WHAT_TO_LOOK_AT.items() if (staging / name).exists()]
        look = f" To find the cause, look at {', '.join(clues)}." if clues else ""
        why = " ".join(reason.split()).rstrip(".")
        return (
            f"The conversion of {self._destination.name} failed on {when}: {why}. "
            "Nothing was published, and this directory cannot be loaded: it holds sources and reports, "
            f"neither weights nor compiled graphs.{look} It may be deleted; the next failed conversion of "
            "that name replaces it.\n"
        )


def _is_artifact(directory: Path) -> bool:
    """Whether a manifest of ours, of any format version, lies there; web applications have one too."""
    try:
        manifest = read_json_object(directory / MANIFEST)
        scan(directory)  # more than an artifact can hold is not thrown away
    except (OSError, Whisper2MaxError):
        return False
    return {"format_version", "files", "digest"} <= manifest.keys()


def _keep_only_sources_and_reports(staging: Path) -> None:
    for folder, _, names in os.walk(staging, topdown=False):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() or path.suffix not in FAILED_KEEPS or path == staging / MANIFEST:
                path.unlink()
        if not os.listdir(folder) and Path(folder) != staging:
            os.rmdir(folder)


def _disk_full_code(error: BaseException) -> int | None:
    """ENOSPC or EDQUOT if one of them is behind an exception, which native libraries report in words."""
    seen = set()
    while isinstance(error, Exception) and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error.errno
        if os.strerror(errno.ENOSPC) in str(error):
            return errno.ENOSPC
        error = error.__cause__ or error.__context__
    return None
