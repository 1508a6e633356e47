"""Walk the live module tree of a PyTorch Whisper and describe it as a GraphSpec.

`walk` looks every module up by its qualified class name and lets that converter add nodes, claim
tensors and descend. Afterwards every parameter and buffer of the tree must have been claimed
exactly once: as a weight, as an alias of one, or as derived. Whatever is left over, claimed twice
or absent is reported in one error.
"""

from dataclasses import dataclass

import torch

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import SpecError
from whisper2max.graph.converters import Walk
from whisper2max.graph.ir import GraphSpec, expected_nodes


@dataclass(frozen=True)
class WalkedModule:
    """A module tree in canonical terms.

    Attributes:
        spec: the network.
        tensors: every weight by canonical name, as the module holds it (no copies).
        source_paths: module or tensor path in the source tree of every node and weight.
    """

    spec: GraphSpec
    tensors: dict[str, torch.Tensor]
    source_paths: dict[str, str]


def walk(module: torch.nn.Module, dims: ModelDimensions) -> WalkedModule:
    """Describe a live `transformers.WhisperForConditionalGeneration` or openai-whisper `Whisper`.

    Args:
        module: the module, in eval mode; its tensors are referenced, never changed.
        dims: its dimensions, as read from the checkpoint.

    Raises:
        SpecError: a class has no converter, or parameters and buffers are unclaimed, missing, of
            another shape than their node says, or claimed twice; all of them are listed.
    """
    state = Walk(dims)
    state.descend(module, "", "")
    tree = dict(module.named_parameters(remove_duplicate=False))
    tree |= dict(module.named_buffers(remove_duplicate=False))
    faults = list(state.faults)
    faults += [f"{name}: claimed by no converter" for name in tree if name not in state.claims]
    for source, claims in state.claims.items():
        if source not in tree:
            faults.append(f"{source}: claimed as {claims[0]}, but the module has no such tensor")
        if len(claims) > 1:
            faults.append(f"{source}: claimed {len(claims)} times, as {', '.join(claims)}")
    order = [path for path, _ in expected_nodes(dims)]
    rank = {path: number for number, path in enumerate(order)}
    nodes = dict(sorted(state.nodes.items(), key=lambda item: rank.get(item[0], len(rank))))
    spec = GraphSpec(dims, "float32", nodes)
    for name, shape in spec.parameters().items():
        tensor = state.tensors.get(name)
        if tensor is None:
            faults.append(f"{name}: missing, expected shape {list(shape)}")
        elif tuple(tensor.shape) != shape:
            faults.append(f"{name}: shape {list(tensor.shape)}, expected {list(shape)}")
    faults += [f"{name}: belongs to no node" for name in state.tensors if name not in spec.parameters()]
    if faults:
        raise SpecError(f"the module tree does not convert, {len(faults)} fault(s): " + "; ".join(faults))
    tensors = {name: state.tensors[name].detach() for name in spec.parameters()}
    return WalkedModule(spec.validate(), tensors, state.source_paths)
