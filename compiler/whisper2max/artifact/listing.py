"""Compare the files of an artifact with those that its manifest lists, by name, kind, size and hash."""

import os
from pathlib import Path
from typing import Any

from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile, HeldFiles
from whisper2max.core.printable import shortened

MANIFEST = "manifest.json"
COPY_AGAIN = "The artifact is damaged: copy it again from its source, or convert the model again."

_LFS_POINTER = b"version https://git-lfs"
_MOST_DEEP = 8
_MOST_ENTRIES = 10_000


def scan(directory: Path) -> tuple[list[str], dict[str, str]]:
    """List a directory: relative POSIX names of all regular files but the manifest, sorted; and the kind of all others.

    Raises:
        ArtifactError: there are more directories in each other, or more files, than an artifact has.
        OSError: the directory cannot be read.
    """
    names: list[str] = []
    odd: dict[str, str] = {}
    folders = [("", 1)]
    entries_seen = 0
    while folders:
        prefix, depth = folders.pop()
        with os.scandir(directory / prefix) as entries:
            for entry in entries:
                name = prefix + entry.name
                entries_seen += 1
                if entries_seen > _MOST_ENTRIES or depth > _MOST_DEEP:
                    raise ArtifactError(
                        f"{directory} holds more than {_MOST_ENTRIES:,} files, or {_MOST_DEEP} directories in each "
                        "other, far more than an artifact has. Remove what does not belong there, or name the "
                        "directory that `whisper2max convert` wrote."
                    )
                if entry.is_symlink():
                    odd[name] = "a symbolic link"
                elif entry.is_dir():
                    folders.append((f"{name}/", depth + 1))
                elif not entry.is_file():
                    odd[name] = "not a regular file"
                elif name != MANIFEST:
                    names.append(name)
    return sorted(names), dict(sorted(odd.items()))


def check_listing(directory: Path, manifest: dict[str, Any]) -> None:
    """Compares the files present with the manifest by name, kind and size, without reading them.

    Raises:
        ArtifactError: files are missing, unlisted, links, special or of another size; all are listed.
        OSError: the directory cannot be read.
    """
    names, odd = scan(directory)
    listed = manifest["files"]
    problems = [f"{name} is {what}" for name, what in odd.items()]
    problems += [f"{name} is missing" for name in sorted(listed.keys() - set(names) - odd.keys())]
    problems += [f"{name} is not listed in the manifest" for name in names if name not in listed]
    for name in names:
        size = (directory / name).lstat().st_size
        if name in listed and size != listed[name]["bytes"]:
            if _is_lfs_pointer(directory / name):
                problems.append(f"{name} is a git-LFS pointer, not the file itself (run `git lfs pull`)")
            else:
                problems.append(f"{name} has {size} bytes instead of {listed[name]['bytes']}")
    if problems:
        raise ArtifactError(
            f"{directory} is not the artifact that its manifest describes: {shortened(problems, '; ')}. "
            "Remove what does not belong, replace links by copies of their files (`cp -rL`), or copy the "
            "artifact again from its source."
        )


def check_hashes(files: HeldFiles, manifest: dict[str, Any]) -> None:
    """Reads every listed file and compares its sha256. About 1 s per GB when the files are in memory.

    Args:
        files: the listed files, held; they keep the hashes that are compared here.
        manifest: the manifest.

    Raises:
        ArtifactError: files were changed; all are listed.
    """
    listed = manifest["files"]
    changed = [name for name, record in listed.items() if files[name].size != record["bytes"]]
    if not changed:
        digests = files.sha256()
        changed = [name for name, record in listed.items() if digests[name] != record["sha256"]]
    if changed:
        raise ArtifactError(
            f"{files.directory} was changed after it was written: {shortened(changed)} "
            f"{'does' if len(changed) == 1 else 'do'} not have the sha256 of the manifest. {COPY_AGAIN}"
        )


def _is_lfs_pointer(path: Path) -> bool:
    return HeldFile(path, ArtifactError, follow=False).read_at(0, len(_LFS_POINTER)) == _LFS_POINTER
