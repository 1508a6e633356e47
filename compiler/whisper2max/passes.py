"""Transformations of (spec, tensors) between the walk and the emitter, in order.

Each pass is a function (spec, tensors) -> (spec, tensors) that returns new values and changes
none; `apply` checks that spec and tensors agree after every one.
"""

from collections.abc import Callable

import torch

from whisper2max.errors import SpecError
from whisper2max.ir import Conv1d, GraphSpec

Tensors = dict[str, torch.Tensor]
Pass = Callable[[GraphSpec, Tensors], tuple[GraphSpec, Tensors]]


def widen(spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
    """Every weight as contiguous float32; exact for float16 and bfloat16 sources."""
    return spec, {name: tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()}


def pack_convolutions(spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
    """Filters from torch's [out, in, kernel] to MAX's [1, kernel, in, out]."""
    nodes, packed = {}, {}
    for path, node in spec.nodes.items():
        if isinstance(node, Conv1d):
            nodes[path] = Conv1d(**{**vars(node), "layout": "1kio"})
            packed[f"{path}.weight"] = tensors[f"{path}.weight"].permute(2, 1, 0).unsqueeze(0).contiguous()
    return spec.with_nodes(nodes), {**tensors, **packed}


PASSES: dict[str, tuple[Pass, ...]] = {"float32": (widen, pack_convolutions)}


def apply(dtype: str, spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
    """Run the passes of a dtype.

    Raises:
        SpecError: a pass left a tensor that its node does not describe.
    """
    for step in PASSES[dtype]:
        spec, tensors = step(spec, tensors)
        spec.validate()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != spec.parameters():
            wrong = sorted(set(shapes.items()) ^ set(spec.parameters().items()))
            raise SpecError(f"pass {step.__name__} left tensors and nodes that disagree: {wrong[:6]}")
    return spec, tensors
