"""Parts of a reference that are kept with an artifact, so that it can be judged again without torch.

    reference.safetensors
        samples/INPUT                            float32 [480000]
        mel/INPUT                                float32 [n_mels, 3000], the features of these samples
        value/INPUT/GRAPH/CASE/ROW/POSITION/PATH float32 [1, frames, width], some frames of the float64 reference
        metadata "reference"                     JSON: what judged; per input its tokens; per value how many rows it
                                                 has, the norm of all of it, and the limits it was judged by

Frames are drawn from a seed that follows from the shape, so the same ones are kept of every value of a graph. The
norm of the whole value finds errors that the frames miss.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from whisper2max.artifact.artifact import Artifact
from whisper2max.artifact.stored_tensors import read_header
from whisper2max.core import strict_json
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError, UsageError
from whisper2max.core.held import HeldFile
from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.figures import Place, Row, compare, of_limit
from whisper2max.parity.inputs import Transcript, Window
from whisper2max.parity.runs import Run
from whisper2max.parity.taps import taps_of
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
        key = value_key(row.place, row.path)
        self.tensors[key] = np.ascontiguousarray(reference[:, frames], np.float32)
        self.values[key] = {
            "source_path": row.source_path,
            "rows": reference.shape[1],
            "norm": float(np.sqrt(np.sum(np.square(reference)))),
            "tolerance": row.tolerance,
        }

    def keep_window(self, window: Window, mel: np.ndarray, transcript: Transcript) -> None:
        """Keep samples, features and tokens of one input."""
        self.tensors[f"samples/{window.name}"] = window.samples
        self.tensors[f"mel/{window.name}"] = mel
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


def value_key(place: Place, path: str) -> str:
    """Name of a kept value; the graphs that ship and those with their values as outputs are judged by the same."""
    return f"value/{place.input}/{place.graph}/{place.case}/{place.row}/{place.position}/{path}"


def seeded_frames(rows: int) -> np.ndarray:
    """Which of `rows` frames or tokens are kept: FRAMES of them, the same every time, in order."""
    chosen = np.random.default_rng(_SEED).choice(rows, min(rows, FRAMES), replace=False)
    return np.sort(chosen)


class KeptReference:
    """What was kept with an artifact as the standard that its graphs are compared with.

    Args:
        kept: what was read.
        spec: of the network.
    """

    def __init__(self, kept: Kept, spec: GraphSpec):
        self.judge = kept.judge
        self._kept = kept
        self._taps = taps_of(spec)
        self._n_text_ctx = spec.dims.n_text_ctx

    @classmethod
    def of(cls, artifact: Artifact) -> "KeptReference":
        """What an artifact keeps.

        Raises:
            UsageError: it keeps nothing.
            ArtifactError: the file is not what `convert --keep-reference` writes.
        """
        if FILE not in artifact.manifest["files"]:
            raise UsageError(f"{artifact.path} keeps no reference to replay: convert it again with --keep-reference")
        return cls(read_kept(artifact.file(FILE), artifact.dims), artifact.spec)

    def spectrograms(self) -> list[tuple[str, np.ndarray]]:
        """Name and features of every input."""
        return [(entry["name"], self._kept.tensors[f"mel/{entry['name']}"]) for entry in self._kept.inputs]

    def windows(self) -> Iterator[Window]:
        """The recordings."""
        for entry in self._kept.inputs:
            yield Window(entry["name"], entry["seconds"], self._kept.tensors[f"samples/{entry['name']}"])

    def features(self, window: Window, got: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What was kept is fed and judges."""
        mel = self._kept.tensors[f"mel/{window.name}"]
        return mel, mel

    def encoder(self, window: Window, mel: np.ndarray, runs: Sequence[Run]) -> list[Row]:
        """Judge runs of the encoder."""
        return [self._row(run, path, got) for run in runs for path, got in run.values.items()]

    def transcript(self, window: Window) -> Transcript:
        """What PyTorch heard."""
        entry = next(entry for entry in self._kept.inputs if entry["name"] == window.name)
        return Transcript(entry["prompt"], entry["greedy"], self._n_text_ctx)

    def decoder(self, window: Window, transcript: Transcript, runs: Sequence[Run]) -> list[Row]:
        """Judge runs of the decoder."""
        return [self._row(run, path, got) for run in runs for path, got in run.values.items()]

    def _row(self, run: Run, path: str, got: np.ndarray) -> Row:
        about, reference = self._kept.value(value_key(run.place, path), got.shape[1], got.shape[2])
        frames, positions = seeded_frames(about["rows"]), run.positions_of(path)
        row = compare(
            self._taps[run.place.graph][path],
            run.place,
            got=np.ascontiguousarray(got[:, frames]),
            reference=reference,
            limits=about["tolerance"],
            positions=None if positions is None else positions[frames],
            source_path=about["source_path"],
        )
        # |got - reference| is at least the difference of their norms, whatever the frames that were not kept
        norm = float(np.linalg.norm(got.astype(np.float64).reshape(-1)))
        rel_rmse = max(row.rel_rmse, abs(norm - about["norm"]) / about["norm"])
        return replace(row, rel_rmse=rel_rmse, passed=of_limit(row.max_abs, rel_rmse, about["tolerance"]) <= 1)
