"""Reading the files of a checkpoint: each is opened once, and what stands in for a file is recognised."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from whisper2max.core import strict_json
from whisper2max.core.errors import CheckpointError, Whisper2MaxError
from whisper2max.core.held import HeldFile

HTML_STARTS = (b"<!doctype html", b"<html", b"<?xml")
LFS_START = b"version https://git-lfs.github.com/spec/"
AGAIN = "Download the checkpoint again."
MOST_NESTED = 32


def open_file(path: Path, error: type[Whisper2MaxError] = CheckpointError) -> HeldFile:
    """Open a file of a checkpoint, once for all that is done with it.

    Raises:
        Whisper2MaxError: of the type asked for; the file is missing, no regular file, empty, a git-LFS pointer or an
            HTML page.
    """
    if not os.path.lexists(path):
        raise error(f"{path} does not exist.")
    file = HeldFile(path, error)
    start = file.read_at(0, 512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        raise error(f"{path} is empty. {AGAIN}")
    if start.startswith(LFS_START):
        raise error(
            f"{path} is a git-LFS pointer, not the file itself: the repository was cloned without its large "
            "files. Run `git lfs install && git lfs pull` in it, or download the checkpoint from the hub."
        )
    if start.startswith(HTML_STARTS):
        raise error(
            f"{path} is an HTML page, not the file itself: the download met an error or a login page. "
            "Download it again from the address that ends in /resolve/main/..., logged in if the model asks "
            "for it."
        )
    return file


def read_bytes(path: Path, error: type[Whisper2MaxError] = CheckpointError) -> bytes:
    """The content of a configuration or a vocabulary.

    Raises:
        Whisper2MaxError: of the type asked for; as `open_file`, or it has more bytes than any of these files.
    """
    return open_file(path, error).read(strict_json.MOST_BYTES)


def read_json(path: Path, error: type[Whisper2MaxError] = CheckpointError, kind: type = dict):
    """The JSON object, or list, in a file.

    Raises:
        Whisper2MaxError: of the type asked for; the file is missing, a stand-in, or holds no such JSON.
    """
    value = strict_json.parse(read_bytes(path, error), path, error, AGAIN, kind)
    level = [value]
    for _ in range(MOST_NESTED):
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
        level = [each for each in level if isinstance(each, dict | list)]
    if level:
        raise error(f"{path} is not usable JSON: it is nested too deeply. {AGAIN}")
    return value


def read_json_if_present(path: Path) -> dict | None:
    """The JSON object in a file, or None where there is no such file."""
    return read_json(path) if os.path.lexists(path) else None


def files_sha256(files: list[HeldFile]) -> str:
    """The hash of one file, or of the listing that `sha256sum` prints of several, sorted by name."""
    if len(files) == 1:
        return files[0].sha256
    ordered = sorted(files, key=lambda file: file.path.name)
    listing = b"".join(f"{file.sha256}  ".encode() + os.fsencode(file.path.name) + b"\n" for file in ordered)
    return hashlib.sha256(listing).hexdigest()


def quoted(value: object) -> str:
    """As `short`, text between quotes."""
    return repr(short(value)) if isinstance(value, str) else short(value)


def short(value: object) -> str:
    """A value out of a file for a message, whatever it is, on little space."""
    if isinstance(value, str):
        return value if len(value) <= 120 else f"{value[:120]}..."
    if value is None or isinstance(value, bool | int | float):
        text = repr(value) if not isinstance(value, int) or value.bit_length() < 256 else "a number of many digits"
        return text[:80]
    if isinstance(value, list | tuple):
        plain = len(value) <= 8 and all(each is None or isinstance(each, bool | int | float | str) for each in value)
        return f"[{', '.join(map(short, value))}]"[:120] if plain else f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def listed(names: Iterable[object], most: int = 5) -> str:
    """Names for a message, the first ones and how many more there are."""
    every = [short(name) for name in names]
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest
