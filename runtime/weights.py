"""Weights mapped from a safetensors file, without a copy."""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from max.driver import Buffer
from max.dtype import DType

from whisper2max.errors import ArtifactError

# numpy has no bfloat16: its bits are given as uint16
_DTYPES = {"F32": np.dtype("<f4"), "BF16": np.dtype("<u2"), "I8": np.dtype("i1"), "I32": np.dtype("<i4")}


def map_weights(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file as an array in the file's memory map; bfloat16 as uint16 bits.

    The safetensors library copies each tensor; a model of 6 GB should not be held twice. The arrays
    keep the map alive, and cannot change the file.

    Raises:
        ArtifactError: the header does not describe the file.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(mapped[:8], "little")
    try:
        header = json.loads(mapped[8:start])
        header.pop("__metadata__", None)
        return {name: _view(mapped, start, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path.name} is not a valid safetensors file: {error}. Convert the model again."
        ) from error


def registry(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | Buffer]:
    """What MAX binds weights by: the arrays in place, those of bfloat16 under their own dtype.

    The arrays must outlive the model.
    """
    return {
        name: Buffer.from_numpy(array).view(DType.bfloat16, array.shape) if array.dtype == np.uint16 else array
        for name, array in weights.items()
    }


def _view(mapped: mmap.mmap, start: int, entry: dict) -> np.ndarray:
    begin, end = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    count = (end - begin) // dtype.itemsize
    array = np.frombuffer(mapped, dtype, count, start + begin).reshape(entry["shape"])
    # `Buffer.from_numpy` copies what is read-only, and bfloat16 goes through it
    array.flags.writeable = entry["dtype"] == "BF16"
    return array
