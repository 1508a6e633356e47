"""Tensors where they lie in a mapped file: nothing is read or copied until it is used."""

import math
import mmap
from collections.abc import Iterable

import torch

MOST_BYTES = 16 << 30
"""Of a file of weights; those of large-v3 in float32 have 6.2 GB."""


def tensor_at(content: mmap.mmap | bytearray, dtype: torch.dtype, shape: tuple[int, ...], begin: int) -> torch.Tensor:
    """The tensor whose bytes begin at an offset of the content, which has enough of them; it shares their memory.

    Where the offset is not a multiple of the item's size, the tensor is copied: not all vector code reads such
    addresses. A shape without items gives an empty tensor of one axis: no weight is one.
    """
    count = math.prod(shape)
    if count == 0:
        return torch.empty(0, dtype=dtype)
    tensor = torch.frombuffer(content, dtype=dtype, count=count, offset=begin).reshape(shape)
    return tensor.clone() if begin % dtype.itemsize else tensor


def fault_of_size(tensors: Iterable[torch.Tensor], size: int) -> str | None:
    """Describe the fault of a file whose tensors together have far more bytes than it, because many share bytes.

    None for up to twice as many: a projection may be stored as the embedding that it is tied to, and in the smallest
    Whisper that is half of the model.
    """
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if total <= 2 * size:
        return None
    return f"its tensors would take {total:,} bytes, many times the {size:,} of the file"
