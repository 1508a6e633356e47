"""Where each tensor of a checkpoint lies in the plain weights that MAX's operations and devices take.

    weight [out, in, kernel]          [out, kernel * in]
    the token table                   its rows, then rows of zeros up to a multiple of 256
    query, key and value              one matrix ATTENTION.query_key_value [3 * out, in] and its bias; where one has no
                                      bias it is zero. Of cross-attention key and value alone, ATTENTION.key_value
    everything else                   as it is

As `audit`, this shares nothing with the packer.
"""

from collections.abc import Mapping

import numpy as np

_TABLE = "decoder.token_embedding.weight"
_JOINED = {"cross_attn": ("key", "value"), "attn": ("query", "key", "value")}


def by_walked_name(stored: Mapping[str, np.ndarray], walked: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Stored tensors in the shapes and under the names of a checkpoint.

    Args:
        stored: by name, as in weights.safetensors.
        walked: tensors of the checkpoint by canonical name; their shapes are read.

    Returns:
        Views by the checkpoint's names. What is not in the checkpoint and not zero, as all that fills up has to be,
        goes under a name of its own.
    """
    found = dict(stored)
    for name, joined in stored.items():
        attention, children, kind = _joined(name)
        if not children or len(joined) % len(children):
            continue
        del found[name]
        for child, part in zip(children, np.split(joined, len(children)), strict=True):
            path = f"{attention}.{child}.{kind}"
            if path in walked or part.any():
                found[path] = part
    for name, tensor in walked.items():
        kept = found.get(name)
        if kept is not None and tensor.ndim == 3 and kept.shape == (tensor.shape[0], tensor.shape[2] * tensor.shape[1]):
            found[name] = kept.reshape(tensor.shape[0], tensor.shape[2], tensor.shape[1]).swapaxes(1, 2)
        if kept is not None and name == _TABLE and len(kept) == -(-len(tensor) // 256) * 256:
            found[name] = kept[: len(tensor)]
            if kept[len(tensor) :].any():
                found[f"{name} after the vocabulary"] = kept[len(tensor) :]
    return found


def _joined(name: str) -> tuple[str, tuple[str, ...], str]:
    """The attention, the children and "weight" or "bias" of a matrix of several; no children if it is none."""
    attention, _, rest = name.rpartition(".")[0].rpartition(".")
    children = _JOINED.get(attention.rpartition(".")[2], ())
    return attention, children if rest == "_".join(children) else (), name.rpartition(".")[2]
