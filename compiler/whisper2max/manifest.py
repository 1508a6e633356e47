"""manifest.json: what an artifact consists of, written, read back strictly, and compared with the files.

The manifest records the sha256 and size of every other file, and a digest of itself. The digest is taken of
its content, not of its text, so that only a change of white space goes unnoticed.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from whisper2max.dims import ModelDimensions
from whisper2max.errors import ArtifactError, CheckpointError

FORMAT_VERSION = 3
"""3 has a features.mef that gives powers without floor and scale."""
MANIFEST = "manifest.json"
FAILED_MARKER = "FAILED.txt"

_FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    "created": str,
    "name": str,
    "dims": dict,
    "dtype": str,
    "target": dict,
    "source": dict,
    "versions": dict,
    "verified": bool,
    "parity": (dict, type(None)),
}
_COMPUTED_TYPES = {"files": dict, "digest": str}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LFS_POINTER = b"version https://git-lfs"
_COPY_AGAIN = "The artifact is damaged: copy it again from its source, or convert the model again."


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, 64 hexadecimal digits."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_object(path: Path) -> dict[str, Any]:
    """Parses a file that holds one JSON object, strictly: no duplicate keys, no NaN or Infinity.

    Raises:
        ArtifactError: the file is not such JSON.
        OSError: the file cannot be read.
    """

    def unique(pairs):
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise ValueError(f"duplicate key {', '.join(map(ascii, twice))}")
        return result

    def finite(text):
        value = float(text)
        if value - value != 0.0:
            raise ValueError(f"{text} is not a finite number")
        return value

    try:
        text = path.read_bytes().decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique, parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is not valid JSON ({error}). The file is damaged: copy it again from its source, or "
            "convert the model again."
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError(
            f"{path} holds a JSON {type(value).__name__} where an object is expected. The file is damaged "
            "or belongs to another program: convert the model again."
        )
    return value


def write_manifest(directory: Path, fields: dict[str, Any]) -> None:
    """Writes manifest.json over everything present in a directory, as the last step of making an artifact.

    Added to `fields`, or replaced in them, are "format_version"; "files", the sha256 and size in bytes of
    every other file by its relative path; and "digest", the sha256 of the manifest's canonical JSON without
    the digest. Canonical means sorted keys, no spaces, ASCII only. So the manifest of an opened artifact,
    with some fields changed, can be passed back.

    Raises:
        ArtifactError: a field is missing, of the wrong type or an absolute path, all of them listed; the
            directory holds links or special files; or it is marked as a failed conversion.
    """
    computed = {"format_version", *_COMPUTED_TYPES}
    fields = {name: value for name, value in fields.items() if name not in computed}
    problems = _field_problems(fields, _FIELD_TYPES)
    problems += [f"{where} is the absolute path {value}" for where, value in _absolute_paths(fields)]
    if not problems and (complaint := _dims_complaint(fields["dims"])):
        problems.append(complaint)
    names, odd = _scan(directory)
    problems += [f"{name} is {what}" for name, what in odd.items()]
    problems += [f"{name} cannot be a file of an artifact" for name in names if _reserved(name)]
    if problems:
        raise ArtifactError(
            f"No manifest can be written for {directory}: {'; '.join(problems)}. An artifact consists of "
            "regular files and is described without reference to the machine that made it."
        )
    digests = _hash_all(directory, names)
    manifest = {"format_version": FORMAT_VERSION, **fields}
    manifest["files"] = {name: {"sha256": digests[name], "bytes": (directory / name).stat().st_size} for name in names}
    manifest["digest"] = manifest_digest(json.loads(json.dumps(manifest, allow_nan=False)))
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    # Unlinked first: the old manifest may be shared with another directory by a hard link.
    (directory / MANIFEST).unlink(missing_ok=True)
    (directory / MANIFEST).write_text(text, encoding="utf-8")


def manifest_digest(manifest: dict[str, Any]) -> str:
    """The sha256 of a manifest's canonical JSON, its own "digest" left out."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """Parses and checks manifest.json alone: format version, fields, digest and file names.

    Raises:
        ArtifactError: anything is missing or wrong; every missing or mistyped field is listed.
        OSError: the file cannot be read.
    """
    path = directory / MANIFEST
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ArtifactError(f"{path} is not a regular file. {_COPY_AGAIN}")
    manifest = read_json_object(path)

    version = manifest.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > FORMAT_VERSION
        remedy = "upgrade whisper2max" if newer else "convert the model again"
        raise ArtifactError(
            f"{path} has format_version {version!r}; this whisper2max reads {FORMAT_VERSION}: {remedy}."
        )
    problems = _field_problems(manifest, _FIELD_TYPES | _COMPUTED_TYPES)
    if not problems:
        problems = _file_problems(manifest["files"])
    if problems:
        raise ArtifactError(f"{path} is not a complete manifest: {'; '.join(problems)}. {_COPY_AGAIN}")
    if manifest["digest"] != manifest_digest(manifest):
        raise ArtifactError(
            f"{path} was changed after it was written: its digest does not match its content. {_COPY_AGAIN}"
        )
    if complaint := _dims_complaint(manifest["dims"]):
        raise ArtifactError(f"{path}: {complaint} Convert the model again.")
    return manifest


def check_listing(directory: Path, manifest: dict[str, Any]) -> None:
    """Compares the files present with the manifest by name, kind and size, without reading them.

    Raises:
        ArtifactError: files are missing, unlisted, links, special or of another size; all are listed.
        OSError: the directory cannot be read.
    """
    names, odd = _scan(directory)
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


def check_hashes(directory: Path, manifest: dict[str, Any]) -> None:
    """Reads every listed file and compares its sha256. About 1 s per GB when the files are in memory.

    Raises:
        ArtifactError: files were changed; all are listed.
        OSError: a file cannot be read.
    """
    files = manifest["files"]
    digests = _hash_all(directory, files)
    changed = [name for name in files if digests[name] != files[name]["sha256"]]
    if changed:
        raise ArtifactError(
            f"{directory} was changed after it was written: {shortened(changed)} "
            f"{'does' if len(changed) == 1 else 'do'} not have the sha256 of the manifest. {_COPY_AGAIN}"
        )


def _hash_all(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """sha256 of each file by name. hashlib releases the GIL, so files are hashed side by side."""
    by_size = sorted(names, key=lambda name: (directory / name).lstat().st_size, reverse=True)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda name: file_sha256(directory / name), by_size)
        return dict(zip(by_size, digests, strict=True))


def _scan(directory: Path) -> tuple[list[str], dict[str, str]]:
    """Relative POSIX names of all regular files but the manifest, sorted; and what else is there, by kind."""
    names, odd = [], {}

    def visit(folder: str, prefix: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_symlink():
                    odd[name] = "a symbolic link"
                elif entry.is_dir():
                    visit(entry.path, name + "/")
                elif not entry.is_file():
                    odd[name] = "not a regular file"
                elif name != MANIFEST:
                    names.append(name)

    visit(os.fspath(directory), "")
    return sorted(names), dict(sorted(odd.items()))


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def _field_problems(fields: dict[str, Any], types: dict[str, type | tuple[type, ...]]) -> list[str]:
    problems = []
    for name, kind in types.items():
        if name not in fields:
            problems.append(f"{name} is missing")
        elif not isinstance(fields[name], kind):
            problems.append(f"{name} is of type {type(fields[name]).__name__}")
    target, versions = fields.get("target"), fields.get("versions")
    if isinstance(target, dict):
        if not isinstance(target.get("name"), str):
            problems.append("target.name is missing or not a string")
        features = target.get("cpu_features")
        if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
            problems.append("target.cpu_features is missing or not a list of strings")
    if isinstance(versions, dict) and not isinstance(versions.get("max"), str):
        problems.append("versions.max is missing or not a string")
    return problems


def _file_problems(files: dict[str, Any]) -> list[str]:
    problems = []
    for name, record in files.items():
        if not _is_plain_relative(name) or _reserved(name):
            problems.append(f"{name!a} is not the name of a file inside the artifact")
        elif (
            not isinstance(record, dict)
            or not isinstance(record.get("sha256"), str)
            or not _SHA256.fullmatch(record["sha256"])
            or not isinstance(record.get("bytes"), int)
        ):
            problems.append(f"{name!a} is recorded without a sha256 and a size in bytes")
    return problems


def _is_plain_relative(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and "/".join(parts) == name
        and ".." not in parts
        and not name.startswith("/")
        and not set(name) & {"\\", "\0"}
    )


def _reserved(name: str) -> bool:
    return name in (MANIFEST, FAILED_MARKER)


def _dims_complaint(dims: dict[str, Any]) -> str:
    try:
        ModelDimensions(**dims)
    except CheckpointError as error:
        return str(error)
    except TypeError as error:
        return f"dims are not the ten integers of a Whisper model ({error})."
    return ""


def _absolute_paths(value: Any, where: str = "") -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(where, value)] if value.startswith("/") else []
    if isinstance(value, dict):
        items = [(f"{where}.{key}" if where else str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    else:
        return []
    return [found for name, item in items for found in _absolute_paths(item, name)]


def shortened(items: Iterable[str], separator: str = ", ", most: int = 8) -> str:
    """The first items and how many more there are, for messages."""
    items = list(items)
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join(items[:most] + more) or "no files"
