"""A file in numbered pieces that each travel by themselves, and a manifest that tells whether they arrived whole."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

LIMIT = 60 << 20
"""Most bytes of a piece: a call carries 64 MiB, the checkout among them."""
MANIFEST = "manifest.json"
CHUNK = 1 << 20


def split(file: Path, out: Path, limit: int = LIMIT, **about: Any) -> dict[str, Any]:
    """Cut a file into as few pieces as there can be, all of about one size, and write their manifest last.

    Args:
        file: is read.
        out: folder of the pieces; those of another file are removed from it.
        limit: most bytes of a piece.
        about: what else the manifest is to say.

    Returns:
        The manifest: "pieces" with "name", "bytes" and "sha256" of each, "sha256" of the whole, and `about`.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("piece.*"), *out.glob(MANIFEST)):
        old.unlink()
    size = file.stat().st_size
    count = max(1, -(-size // limit))
    whole, pieces = hashlib.sha256(), []
    with file.open("rb") as source:
        for number in range(count):
            data = source.read(size * (number + 1) // count - size * number // count)
            whole.update(data)
            name = f"piece.{number + 1:02}"
            (out / name).write_bytes(data)
            pieces.append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    manifest = {"pieces": pieces, "sha256": whole.hexdigest(), **about}
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest that lies beside pieces."""
    path = folder / MANIFEST
    if not path.is_file():
        raise SystemExit(f"there is no {MANIFEST} in {folder}; it travels with every piece, beside it.")
    return json.loads(path.read_text(encoding="utf-8"))


def collect(source: Path, kept: Path, manifest: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Keep the pieces that arrived whole.

    Args:
        source: where some of them are.
        kept: folder of those that came before; what is not of this manifest is removed from it.
        manifest: of all.

    Returns:
        Names of those that are still missing, and of those among them that are there and damaged.
    """
    kept.mkdir(parents=True, exist_ok=True)
    sha256 = {piece["name"]: piece["sha256"] for piece in manifest["pieces"]}
    for path in kept.iterdir():
        if sha256.get(path.name) != hash_of(path):
            path.unlink()
    damaged = []
    for name, expected in sha256.items():
        path = source / name
        if (kept / name).exists() or not path.is_file():
            continue
        if hash_of(path) == expected:
            shutil.copyfile(path, kept / name)
        else:
            damaged.append(name)
    return [name for name in sha256 if not (kept / name).exists()], damaged


def join(kept: Path, file: Path, manifest: dict[str, Any]) -> None:
    """Write the file that the pieces were cut from.

    Raises:
        ValueError: it is another one.
    """
    whole = hashlib.sha256()
    with file.open("wb") as target:
        for piece in manifest["pieces"]:
            data = (kept / piece["name"]).read_bytes()
            whole.update(data)
            target.write(data)
    if whole.hexdigest() != manifest["sha256"]:
        raise ValueError(f"the pieces in {kept} make another file than the one that was cut")


def hash_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
