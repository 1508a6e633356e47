"""safetensors: a header of JSON that says where each tensor lies, then the tensors, one after the other."""

import math

import torch

from whisper2max.checkpoints.files import AGAIN, short
from whisper2max.checkpoints.stored import MOST_BYTES, tensor_at
from whisper2max.core import strict_json
from whisper2max.core.errors import CheckpointError
from whisper2max.core.held import HeldFile

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_header(file: HeldFile) -> dict[str, tuple[torch.dtype, tuple[int, ...], int]]:
    """Type, shape and first byte in the file of every tensor, by name.

    Raises:
        CheckpointError: it is no such file, or its tensors do not fill it without gap and overlap.
    """
    length = int.from_bytes(file.read_at(0, 8), "little")
    begin = 8 + length
    if file.size < 8 or begin > file.size:
        raise _fault(file, "it ends within its header")
    if length > strict_json.MOST_BYTES or file.size > MOST_BYTES:
        raise _fault(file, f"no Whisper has a header of {length:,} bytes, or {file.size:,} in all")
    header = strict_json.parse(file.read_at(8, length), f"the header of {file.path}", CheckpointError, AGAIN)
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        try:
            dtype, shape, (first, end) = TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            sizes = [*shape, first, end]
            sound = all(type(size) is int and 0 <= size for size in sizes) and len(shape) <= 8
        except (TypeError, KeyError, ValueError):
            sound = False
        if not sound or first + math.prod(shape) * dtype.itemsize != end:
            raise _fault(file, f"{short(name)} has no type, shape and place that agree")
        tensors[name] = dtype, tuple(shape), begin + first, begin + end
    at = begin
    for name, (_, _, first, end) in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if first != at:
            raise _fault(file, f"{short(name)} begins at the byte {first}, where {at} is expected")
        at = end
    if at != file.size:
        raise _fault(file, f"its tensors end at the byte {at}")
    return {name: (dtype, shape, first) for name, (dtype, shape, first, _) in tensors.items()}


def read_safetensors(file: HeldFile) -> dict[str, torch.Tensor]:
    """Every tensor of a file, in the memory that it is mapped to.

    Raises:
        CheckpointError: as `read_header`.
    """
    header = read_header(file)
    content = file.map()
    return {name: tensor_at(content, *described) for name, described in header.items()}


def _fault(file: HeldFile, what: str) -> CheckpointError:
    return CheckpointError(
        f"{file.path} ({file.size:,} bytes) is truncated or not a safetensors file ({what}); download it again."
    )
