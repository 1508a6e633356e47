"""Parts of a reference that are kept with an artifact, so that it can be judged again without torch.

    reference.safetensors
        samples/INPUT                          float32 [480000]
        mel/INPUT                              float32 [n_mels, 3000], the features of these samples
        value/INPUT/BUILD/GRAPH/POSITION/PATH  float32 [1, frames, width], some frames of the float64 reference
        metadata "reference"                   JSON: what judged; per input its tokens; per value how many rows it has,
                                               the norm of all of it, and the limits it was judged by

Frames are drawn from a seed that follows from the shape, so the same ones are kept of every value of a graph. The
norm of the whole value finds errors that the frames miss.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from whisper2max.artifact.stored_tensors import read_header
from whisper2max.core import strict_json
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.parity.case import Transcript, Window
from whisper2max.parity.report import Row
from whisper2max.runtime.features import HOP_LENGTH
from whisper2max.runtime.weights import map_weights

FILE = "reference.safetensors"
FRAMES = 16
_SEED = 20
_AGAIN = "Convert again with --keep-reference."


@dataclass
class Keeper:
    """Collects what is kept while a comparison runs; blocks by themselves are left out."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def keep(self, row: Row, reference: np.ndarray) -> None:
        """Keep seeded frames and the norm of one value, float64 [1, rows, width]."""
        if row.build == "isolated":
            return
        frames = seeded_frames(reference.shape[1])
        key = value_key(row.input, row.build, row.graph, row.position, row.path)
        self.tensors[key] = np.ascontiguousarray(reference[:, frames], np.float32)
        self.values[key] = {
            "source_path": row.source_path,
            "rows": reference.shape[1],
            "norm": float(np.sqrt(np.sum(np.square(reference)))),
            "tolerance": row.tolerance,
        }

    def keep_window(self, window: Window, transcript: Transcript) -> None:
        """Keep samples, features and tokens of one input."""
        self.tensors[f"samples/{window.name}"] = window.samples
        self.tensors[f"mel/{window.name}"] = window.mel
        tokens = {"prompt": transcript.prompt, "greedy": transcript.greedy}
        self.inputs.append({"name": window.name, "seconds": window.seconds, **tokens})

    def write(self, directory: Path, judged_by: str) -> None:
        """Write reference.safetensors."""
        about = {"judge": judged_by, "inputs": self.inputs, "values": self.values}
        safetensors.numpy.save_file(self.tensors, directory / FILE, {"reference": json.dumps(about)})


@dataclass(frozen=True)
class Kept:
    """A reference.safetensors, read.

    Attributes:
        judge: what judged.
        inputs: name, seconds, prompt and greedy tokens of every recording.
        values: by `value_key`: source_path, rows, norm and tolerance.
        tensors: samples, features and frames.
    """

    judge: str
    inputs: list[dict[str, Any]]
    values: dict[str, dict[str, Any]]
    tensors: dict[str, np.ndarray]

    def value(self, key: str, rows: int, width: int) -> tuple[dict[str, Any], np.ndarray]:
        """What is known of a value of that many rows, and its kept rows float32 [1, kept, width].

        Raises:
            ArtifactError: it was not kept, or has another shape.
        """
        about, frames = self.values.get(key), self.tensors.get(key)
        if about is None or about["rows"] != rows or frames.shape != (1, len(seeded_frames(rows)), width):
            raise ArtifactError(f"{FILE} holds no {key} of {rows} rows of {width} values. {_AGAIN}")
        return about, frames


def read_kept(file: HeldFile, dims: ModelDimensions) -> Kept:
    """Read a reference.safetensors whose hash was checked.

    Args:
        file: the file.
        dims: of the model that it was kept with.

    Raises:
        ArtifactError: it is not what `convert --keep-reference` writes for such a model.
    """
    header = read_header(file)
    text = header.metadata.get("reference", "").encode()
    about = strict_json.parse(text, f"the metadata of {FILE}", ArtifactError, _AGAIN)
    tensors = {name: array.copy() for name, array in map_weights(file).items()}
    file.require_unchanged()
    kept = Kept(about.get("judge"), about.get("inputs"), about.get("values"), tensors)
    if not _is_complete(kept, dims):
        raise ArtifactError(f"{FILE} does not hold what is kept of a comparison. {_AGAIN}")
    return kept


def _is_complete(kept: Kept, dims: ModelDimensions) -> bool:
    if not isinstance(kept.judge, str) or not isinstance(kept.inputs, list) or not isinstance(kept.values, dict):
        return False
    if not kept.inputs:
        return False
    return all(_is_input(entry, kept.tensors, dims) for entry in kept.inputs) and all(
        _is_value(about) and _has(kept.tensors, key, None) for key, about in kept.values.items()
    )


def _is_input(entry: Any, tensors: dict[str, np.ndarray], dims: ModelDimensions) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not _is_number(entry.get("seconds")):
        return False
    lists = [entry.get("prompt"), entry.get("greedy")]
    if not all(isinstance(tokens, list) and tokens for tokens in lists) or sum(map(len, lists)) > dims.n_text_ctx:
        return False
    if not all(type(token) is int and 0 <= token < dims.n_vocab for tokens in lists for token in tokens):
        return False
    return _has(tensors, f"samples/{entry['name']}", (dims.n_frames * HOP_LENGTH,)) and _has(
        tensors, f"mel/{entry['name']}", (dims.n_mels, dims.n_frames)
    )


def _is_value(about: Any) -> bool:
    if not isinstance(about, dict) or not isinstance(about.get("source_path"), str | None):
        return False
    limits = about.get("tolerance")
    return (
        type(about.get("rows")) is int
        and _is_number(about.get("norm"))
        and about["norm"] > 0
        and isinstance(limits, dict)
        and _is_number(limits.get("max_abs"))
        and (limits.get("rel_rmse") is None or _is_number(limits["rel_rmse"]))
    )


def _has(tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...] | None) -> bool:
    found = tensors.get(name)
    return found is not None and found.dtype == np.float32 and shape in (None, found.shape)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def value_key(input: str, build: str, graph: str, position: int | None, path: str) -> str:
    """Name of a kept value."""
    return f"value/{input}/{build}/{graph}/{position}/{path}"


def seeded_frames(rows: int) -> np.ndarray:
    """Which of `rows` frames or tokens are kept: FRAMES of them, the same every time, in order."""
    chosen = np.random.default_rng(_SEED).choice(rows, min(rows, FRAMES), replace=False)
    return np.sort(chosen)
