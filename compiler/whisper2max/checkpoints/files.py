"""Reading the files of a checkpoint: what stands in for a file is recognised, hashes, JSON."""

import hashlib
import json
from pathlib import Path

from whisper2max.errors import CheckpointError

HTML_STARTS = (b"<!doctype html", b"<html", b"<?xml")
LFS_START = b"version https://git-lfs.github.com/spec/"


def refuse_stand_in(path: Path) -> None:
    """Refuse what a failed download leaves in the place of a file.

    Raises:
        CheckpointError: the file is missing, empty, a git-LFS pointer or an HTML page.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file.")
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        raise CheckpointError(f"{path} is empty; download the checkpoint again.")
    if start.startswith(LFS_START):
        raise CheckpointError(
            f"{path} is a git-LFS pointer, not the file itself: the repository was cloned without its large "
            "files. Run `git lfs install && git lfs pull` in it, or download the checkpoint from the hub."
        )
    if start.startswith(HTML_STARTS):
        raise CheckpointError(
            f"{path} is an HTML page, not the file itself: the download met an error or a login page. "
            "Download it again from the address that ends in /resolve/main/..., logged in if the model asks "
            "for it."
        )


def read_json(path: Path) -> dict:
    """The JSON object in a file.

    Raises:
        CheckpointError: the file is missing, a stand-in, or holds no JSON object.
    """
    refuse_stand_in(path)
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download the checkpoint again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, expected an object.")
    return content


def read_json_if_present(path: Path) -> dict | None:
    """The JSON object in a file, or None where there is no such file."""
    return read_json(path) if path.exists() else None


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(paths: list[Path]) -> str:
    """The hash of one file, or of the listing that `sha256sum` prints of several, sorted by name."""
    if len(paths) == 1:
        return file_sha256(paths[0])
    listing = "".join(
        f"{file_sha256(path)}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name)
    )
    return hashlib.sha256(listing.encode()).hexdigest()
