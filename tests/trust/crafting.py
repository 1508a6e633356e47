"""Artifacts changed by someone who can also seal them: hashes, sizes and digest agree again."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from whisper2max.artifact.manifest import manifest_digest


class Crafted:
    """A copy of an artifact to change. Its files are hard links, so each is replaced, never written to.

    Attributes:
        path: its directory.
    """

    def __init__(self, artifact: Path, path: Path):
        self.path = path
        for source in sorted(artifact.rglob("*")):
            destination = path / source.relative_to(artifact)
            destination.parent.mkdir(parents=True, exist_ok=True)
            if source.is_file():
                os.link(source, destination)

    def put(self, name: str, content: str | bytes) -> None:
        """Replaces a file, or adds one."""
        path = self.path / name
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def json(self, name: str = "manifest.json") -> dict[str, Any]:
        return json.loads(self.read(name))

    def seal(self, manifest: dict[str, Any] | None = None, hashes: bool = True) -> None:
        """Writes the manifest, or the one that is there, with the digest that it must have.

        Args:
            manifest: its fields.
            hashes: record the files as they are now, too.
        """
        manifest = manifest or self.json()
        for name in manifest["files"] if hashes else ():
            path = self.path / name
            if path.is_file():
                content = path.read_bytes()
                manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        manifest["digest"] = manifest_digest(manifest)
        self.put("manifest.json", json.dumps(manifest, indent=1))

    def change_manifest(self, change: Callable[[dict[str, Any]], object], hashes: bool = False) -> None:
        manifest = self.json()
        change(manifest)
        self.seal(manifest, hashes)

    def change_json(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        content = self.json(name)
        change(content)
        self.put(name, json.dumps(content))
        self.seal()

    def change_file(self, name: str, content: str | bytes) -> None:
        self.put(name, content)
        self.seal()

    def change_header(self, change: Callable[[dict[str, Any], bytearray], object]) -> None:
        """Changes the table of weights.safetensors, or the bytes after it."""
        content = self.read("weights.safetensors")
        length = int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
        change(header, data)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.change_file("weights.safetensors", len(text).to_bytes(8, "little") + text + data)


def tensors(header: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries of a safetensors header in the order of their bytes."""
    entries = (entry for name, entry in header.items() if name != "__metadata__")
    return iter(sorted(entries, key=lambda entry: entry["data_offsets"]))


DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
