"""Weights mapped from a safetensors file, without a copy."""

from collections.abc import Mapping

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType

from whisper2max.artifact.stored_tensors import read_header
from whisper2max.core.held import HeldFile

# numpy has no bfloat16: its bits are given as uint16
_DTYPES = {"float32": np.dtype("<f4"), "bfloat16": np.dtype("<u2"), "int8": np.dtype("i1"), "int32": np.dtype("<i4")}


def map_weights(file: HeldFile) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file as an array in the file's memory map; bfloat16 as uint16 bits.

    The safetensors library copies each tensor; a model of 6 GB should not be held twice. The arrays
    keep the map alive, and cannot change the file. To be followed by `file.require_unchanged()`.

    Raises:
        ArtifactError: the header does not describe the file.
    """
    tensors = read_header(file).tensors
    mapped = file.map()
    weights = {}
    for name, tensor in tensors.items():
        dtype = _DTYPES[tensor.dtype]
        count = (tensor.end - tensor.begin) // dtype.itemsize
        array = np.frombuffer(mapped, dtype, count, tensor.begin).reshape(tensor.shape)
        # `Buffer.from_numpy` copies what is read-only, and bfloat16 goes through it
        array.flags.writeable = tensor.dtype == "bfloat16"
        weights[name] = array
    return weights


def registry(weights: Mapping[str, np.ndarray | Buffer]) -> dict[str, np.ndarray | Buffer]:
    """What MAX binds weights by: the arrays in place, those of bfloat16 under their own dtype; buffers as they are.

    The arrays must outlive the model.
    """
    return {name: _typed(value) if isinstance(value, np.ndarray) else value for name, value in weights.items()}


def _typed(array: np.ndarray) -> np.ndarray | Buffer:
    return Buffer.from_numpy(array).view(DType.bfloat16, array.shape) if array.dtype == np.uint16 else array


def copied_to(device: Device, weights: Mapping[str, np.ndarray | Buffer]) -> dict[str, Buffer]:
    """The weights in the memory of a GPU, where all graphs share them."""
    copies = {}
    for name, value in registry(weights).items():
        buffer = value if isinstance(value, Buffer) else Buffer.from_numpy(value)
        copies[name] = buffer.to(device)
    return copies
