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

from whisper2max.errors import ArtifactError
from whisper2max.parity.case import Transcript, Window
from whisper2max.parity.report import Row

FILE = "reference.safetensors"
FRAMES = 16
_SEED = 20


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


def read_kept(path: Path) -> Kept:
    """Read a reference.safetensors whose hash was checked.

    Raises:
        ArtifactError: it is not what `convert --keep-reference` writes.
    """
    try:
        with safetensors.safe_open(path, "np") as file:
            about = json.loads(file.metadata()["reference"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Kept(about["judge"], about["inputs"], about["values"], tensors)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path.name} cannot be read ({error}): convert again with --keep-reference") from error


def value_key(input: str, build: str, graph: str, position: int | None, path: str) -> str:
    """Name of a kept value."""
    return f"value/{input}/{build}/{graph}/{position}/{path}"


def seeded_frames(rows: int) -> np.ndarray:
    """Which of `rows` frames or tokens are kept: FRAMES of them, the same every time, in order."""
    chosen = np.random.default_rng(_SEED).choice(rows, min(rows, FRAMES), replace=False)
    return np.sort(chosen)
