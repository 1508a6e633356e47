"""The table at the head of a safetensors file, read strictly: every tensor lies inside the file, beside the others.

The safetensors library copies each tensor, and what maps them in place has to know the table itself. This module needs
no numpy: opening an artifact reads the table too.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from whisper2max.core import strict_json
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.core.printable import shortened

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1, "int32": 4}
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "I8": "int8", "I32": "int32"}
_REMEDY = "The file is damaged: copy the artifact again from its source, or convert the model again."
_MOST_AXES = 8


@dataclass(frozen=True)
class StoredTensor:
    """One entry of the table: type, shape and place of a tensor.

    Attributes:
        dtype: a key of `ITEM_BYTES`.
        shape: its axes.
        begin: of its bytes in the file.
        end: of its bytes in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """The parsed table.

    Attributes:
        tensors: by name.
        metadata: texts by name.
    """

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]


def read_header(file: HeldFile) -> Header:
    """The head of a safetensors file, which is not read beyond it.

    Raises:
        ArtifactError: it is no such file, or tensors overlap, leave gaps or end elsewhere than it; all are listed.
    """
    name = file.path.name
    length = int.from_bytes(file.read_at(0, 8), "little")
    start = 8 + length
    if file.size < 8 or start > file.size:
        raise ArtifactError(f"{name} is not a safetensors file: it ends within its header. {_REMEDY}")
    if length > strict_json.MOST_BYTES:
        raise ArtifactError(f"{name} has a header of {length:,} bytes, and no Whisper has so many tensors. {_REMEDY}")
    header = strict_json.parse(file.read_at(8, length), f"the header of {name}", ArtifactError, _REMEDY)
    metadata = header.pop("__metadata__", {})
    tensors, faults = {}, []
    for tensor, entry in header.items():
        try:
            tensors[tensor] = _stored(entry, start)
        except (ValueError, TypeError, KeyError):
            faults.append(f"{tensor} has no dtype, shape and offsets that agree")
    if not faults:
        faults = _misplaced(tensors, start, file.size)
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        faults.append("the metadata are not texts by name")
    if faults:
        raise ArtifactError(f"{name} is not a usable safetensors file: {shortened(faults, '; ')}. {_REMEDY}")
    return Header(tensors, metadata)


def _stored(entry: Any, start: int) -> StoredTensor:
    dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    sizes = [*shape, begin, end]
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(type(n) is int and 0 <= n for n in sizes):
        raise ValueError
    if begin + math.prod(shape) * ITEM_BYTES[dtype] != end:
        raise ValueError
    return StoredTensor(dtype, tuple(shape), start + begin, start + end)


def _misplaced(tensors: dict[str, StoredTensor], start: int, size: int) -> list[str]:
    faults = []
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != start:
            faults.append(f"{name} begins at {tensor.begin}, expected {start}, where the tensor before it ends")
        if tensor.begin % ITEM_BYTES[tensor.dtype]:
            faults.append(f"{name} begins at {tensor.begin}, which is no place for {tensor.dtype}")
        start = tensor.end
    if start != size:
        faults.append(f"the tensors end at {start}, and the file at {size}")
    return faults
