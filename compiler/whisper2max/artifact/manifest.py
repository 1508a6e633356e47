"""manifest.json: what an artifact consists of, written, and read back strictly.

The manifest records the sha256 and size of every other file, and a digest of itself. The digest is taken of
its content, not of its text, so that only a change of white space goes unnoticed.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from whisper2max.artifact.listing import COPY_AGAIN, MANIFEST, scan
from whisper2max.core import strict_json
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError, CheckpointError
from whisper2max.core.held import HeldFile, HeldFiles
from whisper2max.core.printable import printable, shortened
from whisper2max.graph.ir import DTYPES

FORMAT_VERSION = 5
"""5 says what computes the network, in graph.txt, whether the compiled graphs were ever executed, and for what further
targets there are graphs."""
FAILED_MARKER = "FAILED.txt"
GRAPHS = ("features", "encoder", "audio", "extend", "step")
"""The compiled graphs that ship, as NAME.mef."""
GRAPHS_OF = {"cpu": GRAPHS, "max": (*GRAPHS, "choose")}
"""The same by backend: where logits stay on a device, the choice of the token is a graph too."""
def graph_file(name: str, target: str = "") -> str:
    """The file of a compiled graph: those of targets after the first lie in a folder of the target's name."""
    return f"{target}/{name}.mef" if target else f"{name}.mef"


REQUIRED = (
    "model.py",
    "graph.txt",
    "weights.safetensors",
    *(f"{name}.mef" for name in GRAPHS),
    "tokenizer.json",
    "generation.json",
)
"""Files that every artifact has, besides kernels/*.mojo."""

_FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    "created": str,
    "name": str,
    "dims": dict,
    "dtype": str,
    "target": dict,
    "source": dict,
    "versions": dict,
    "verified": bool,
    "executed": bool,
    "also": list,
    "parity": (dict, type(None)),
}
_COMPUTED_TYPES = {"files": dict, "digest": str}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_FILES = 256
_MOST_TARGETS = 16  # besides the first
_MOST_BYTES = {"weights.safetensors": 32 << 30}  # large-v3 in float32 has 6 GB
_MOST_BYTES_OF_OTHERS = 1 << 30


def read_json_object(path: Path) -> dict[str, Any]:
    """Parses a file of an artifact that holds one JSON object, strictly (`whisper2max.core.strict_json`).

    Raises:
        ArtifactError: the file is not such JSON, not a regular file, or cannot be read.
    """
    content = HeldFile(path, ArtifactError, follow=False).read(strict_json.MOST_BYTES)
    return strict_json.parse(content, path, ArtifactError, COPY_AGAIN)


def write_manifest(directory: Path, fields: dict[str, Any], proven: Mapping[str, str] | None = None) -> None:
    """Writes manifest.json over everything present in a directory, as the last step of making an artifact.

    Added to `fields`, or replaced in them, are "format_version"; "files", the sha256 and size in bytes of
    every other file by its relative path; and "digest", the sha256 of the manifest's canonical JSON without
    the digest. Canonical means sorted keys, no spaces, ASCII only. So the manifest of an opened artifact,
    with some fields changed, can be passed back.

    Args:
        directory: the artifact.
        fields: of the manifest.
        proven: the sha256 that files must have by name, because it is that of the bytes which were compared.

    Raises:
        ArtifactError: a field is missing, of the wrong type or an absolute path, all of them listed; the
            directory holds links or special files; it is marked as a failed conversion; or a file is not what
            was proven.
    """
    computed = {"format_version", *_COMPUTED_TYPES}
    fields = {name: value for name, value in fields.items() if name not in computed}
    problems = _field_problems(fields, _FIELD_TYPES)
    problems += [f"{where} is the absolute path {value}" for where, value in _absolute_paths(fields)]
    names, odd = scan(directory)
    problems += [f"{name} is {what}" for name, what in odd.items()]
    problems += [f"{name} cannot be a file of an artifact" for name in names if not _may_be_listed(name)]
    if problems:
        raise ArtifactError(
            f"No manifest can be written for {directory}: {'; '.join(problems)}. An artifact consists of "
            "regular files and is described without reference to the machine that made it."
        )
    files = HeldFiles(directory, names, ArtifactError)
    digests = files.sha256()
    moved = [name for name, digest in (proven or {}).items() if digests.get(name) != digest]
    if moved:
        raise ArtifactError(
            f"{shortened(moved)} of {directory} changed between the comparison and the manifest. Nothing was marked "
            "verified or published: keep others from writing there, and try again."
        )
    manifest = {"format_version": FORMAT_VERSION, **fields}
    manifest["files"] = {name: {"sha256": digests[name], "bytes": files[name].size} for name in names}
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
        ArtifactError: it cannot be read, or anything in it is missing or wrong; all such fields are listed.
    """
    path = directory / MANIFEST
    manifest = read_json_object(path)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION or type(version) is not int:
        newer = type(version) is int and version > FORMAT_VERSION
        remedy = "upgrade whisper2max" if newer else "convert the model again"
        raise ArtifactError(
            f"{path} has format_version {version!r:.40}; this whisper2max reads {FORMAT_VERSION}: {remedy}."
        )
    problems = _field_problems(manifest, _FIELD_TYPES | _COMPUTED_TYPES)
    if isinstance(manifest.get("files"), dict):
        problems += _file_problems(manifest["files"])
    if problems:
        raise ArtifactError(f"{path} is not a complete manifest: {shortened(problems, '; ', 20)}. {COPY_AGAIN}")
    if manifest["digest"] != manifest_digest(manifest):
        raise ArtifactError(
            f"{path} was changed after it was written: its digest does not match its content. {COPY_AGAIN}"
        )
    return manifest


def targets_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All targets that a manifest names, each with whether its graphs were executed."""
    return [{**manifest["target"], "executed": manifest["executed"]}, *manifest["also"]]


def missing_files(files: Mapping[str, Any]) -> list[str]:
    """Names of files that every artifact has and this one does not list."""
    missing = [name for name in REQUIRED if name not in files]
    if not any(PurePosixPath(name).match("kernels/*.mojo") for name in files):
        missing.append("kernels/*.mojo")
    return missing


def _field_problems(fields: dict[str, Any], types: dict[str, type | tuple[type, ...]]) -> list[str]:
    problems = []
    for name, kind in types.items():
        if name not in fields:
            problems.append(f"{name} is missing")
        elif not isinstance(fields[name], kind):
            problems.append(f"{name} is of type {type(fields[name]).__name__}")
    versions, dims, also = fields.get("versions"), fields.get("dims"), fields.get("also")
    if isinstance(fields.get("source"), dict):
        problems += _source_problems(fields["source"])
    if isinstance(fields.get("target"), dict):
        problems += _target_problems(fields["target"], "target")
    if isinstance(also, list):
        for number, target in enumerate(also[:_MOST_TARGETS]):
            if not isinstance(target, dict):
                problems.append(f"also[{number}] is of type {type(target).__name__}")
                continue
            problems += _target_problems(target, f"also[{number}]")
            if not isinstance(target.get("executed"), bool) or not target.get("gpu"):
                problems.append(f"also[{number}] has no gpu, or does not say whether its graphs were executed")
        if len(also) > _MOST_TARGETS:
            problems.append(f"also lists {len(also)} targets, and {_MOST_TARGETS} at most can be")
    if isinstance(versions, dict) and not _is_text(versions, "max"):
        problems.append("versions.max is missing or not a string")
    if isinstance(dims, dict) and (complaint := _dims_complaint(dims)):
        problems.append(complaint)
    problems += [f"{where} holds characters that cannot be shown" for where in _unprintable(fields)]
    if isinstance(fields.get("dtype"), str) and fields["dtype"] not in DTYPES:
        problems.append(f"dtype is {fields['dtype']!r:.40}, expected one of {', '.join(DTYPES)}")
    return problems


def _target_problems(target: dict[str, Any], where: str) -> list[str]:
    problems = []
    if not _is_text(target, "name"):
        problems.append(f"{where}.name is missing or not a string")
    features = target.get("cpu_features")
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        problems.append(f"{where}.cpu_features is missing or not a list of strings")
    gpu = target.get("gpu")
    if gpu is not None and not (isinstance(gpu, dict) and _is_text(gpu, "api") and _is_text(gpu, "architecture")):
        problems.append(f"{where}.gpu has no api and architecture, both strings")
    return problems


def _source_problems(source: dict[str, Any]) -> list[str]:
    texts = ("format", "name")
    problems = [f"source.{name} is missing or not a string" for name in texts if not _is_text(source, name)]
    request = source.get("request")
    if request is None:
        return problems
    kinds = {"size": str, "checkpoint": str, "random_init": int}
    if not isinstance(request, dict) or not all(isinstance(request[name], kinds.get(name, ())) for name in request):
        problems.append(f"source.request is neither null nor made of {', '.join(kinds)}")
    return problems


def _is_text(fields: dict[str, Any], name: str) -> bool:
    return isinstance(fields.get(name), str)


def _file_problems(files: dict[str, Any]) -> list[str]:
    if len(files) > _MOST_FILES:
        return [f"{len(files):,} files are listed, and no artifact has more than {_MOST_FILES}"]
    problems = []
    for name, record in files.items():
        if not _may_be_listed(name):
            problems.append(f"{name!a} is not the name of a file inside the artifact")
        elif (
            not isinstance(record, dict)
            or not isinstance(record.get("sha256"), str)
            or not _SHA256.fullmatch(record["sha256"])
            or type(record.get("bytes")) is not int
            or record["bytes"] < 0
        ):
            problems.append(f"{name!a} is recorded without a sha256 and a size in bytes")
        elif record["bytes"] > _MOST_BYTES.get(name, _MOST_BYTES_OF_OTHERS):
            problems.append(f"{name!a} is recorded with more bytes than such a file of a Whisper can have")
    if missing := missing_files(files):
        problems.append(f"{shortened(missing)} not listed, which every artifact has")
    return problems


def _may_be_listed(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and "/".join(parts) == name
        and ".." not in parts
        and not name.startswith("/")
        and not set(name) & {"\\", "\0"}
        and not any("\ud800" <= each <= "\udfff" for each in name)
        and name not in (MANIFEST, FAILED_MARKER)
    )


def _dims_complaint(dims: dict[str, Any]) -> str:
    try:
        ModelDimensions(**dims)
    except CheckpointError as error:
        return str(error).rstrip(".")
    except TypeError as error:
        return f"dims are not the ten integers of a Whisper model ({error})"
    return ""


def _absolute_paths(fields: dict[str, Any]) -> list[tuple[str, str]]:
    return [(where, text) for where, text in _texts(fields) if text.startswith("/")]


def _unprintable(fields: dict[str, Any]) -> list[str]:
    return [where for where, text in _texts(fields) if printable(text) != text]


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a value, keys included, with its place, such as "source.name"."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, item in value.items():
            place = f"{where}.{key}" if where else str(key)
            yield place, str(key)
            yield from _texts(item, place)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, f"{where}[{index}]")
