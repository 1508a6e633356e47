"""Transformations of (spec, tensors) between the walk and the emitter, in order.

Each pass is a function (spec, tensors) -> (spec, tensors) that returns new values and changes
none; `apply` checks that spec and tensors agree after every one. The passes of a dtype choose the format in which each
kind of node is multiplied, and lay out its weight for what multiplies it: packed for the kernels of the CPU
(kernels/tile.mojo), plain for MAX's operations and the kernels of a device.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from whisper2max.core.errors import SpecError
from whisper2max.graph.ir import (
    JOINED,
    PANEL,
    ROWS,
    TABLE_ROWS,
    VALUES_PER_WORD,
    Attention,
    Conv1d,
    Embedding,
    GraphSpec,
    Linear,
)

Tensors = dict[str, torch.Tensor]
Pass = Callable[[GraphSpec, Tensors], tuple[GraphSpec, Tensors]]


def widen(spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
    """Every weight as contiguous float32; exact for float16 and bfloat16 sources."""
    return spec, {name: tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()}


def pack_convolutions(packed: str) -> Pass:
    """Filters [out, in, kernel] as panels of [out, kernel * in]: the channels of a frame lie side by side."""

    def pack_convolutions(spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
        return _packed(spec, tensors, Conv1d, packed, lambda weight: weight.permute(0, 2, 1).flatten(1))

    return pack_convolutions


def pack_linears(packed: str) -> Pass:
    """Weights of Linears as panels."""

    def pack_linears(spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
        return _packed(spec, tensors, Linear, packed, lambda weight: weight)

    return pack_linears


def pack_embedding(packed: str) -> Pass:
    """The token table as panels, in which it gives the logits; tokens are read out of them too."""

    def pack_embedding(spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
        return _packed(spec, tensors, Embedding, packed, lambda weight: weight)

    return pack_embedding


def narrow_attention(spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
    """Attention to the audio in bfloat16, in the encoder and across; the decoder's to its own few tokens stays."""
    nodes = {
        path: replace(node, format="bfloat16")
        for path, node in spec.nodes.items()
        if isinstance(node, Attention) and not node.causal
    }
    return spec.with_nodes(nodes), tensors


def quantize_audio(spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
    """The audio's keys and values that a decoder reads again for every token, in int8; queries stay float32."""
    nodes = {
        path: replace(node, format="int8") for path, node in spec.nodes.items() if path.endswith(".cross_attn")
    }
    return spec.with_nodes(nodes), tensors


def join_projections(spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
    """What projects the same values for one attention in one matrix: of the audio key and value, else all three."""
    nodes, changed = {}, dict(tensors)
    for path, node in spec.nodes.items():
        if isinstance(node, Attention):
            children = ("key", "value") if path.endswith(".cross_attn") else ("query", "key", "value")
            paths = [f"{path}.{child}" for child in children]
            weights = [changed.pop(f"{each}.weight") for each in paths]
            biases = [
                changed.pop(f"{each}.bias", torch.zeros(len(weight), device=weight.device))
                for each, weight in zip(paths, weights, strict=True)
            ]
            joined = f"{path}.{'_'.join(children)}"
            changed |= {f"{joined}.weight": torch.cat(weights), f"{joined}.bias": torch.cat(biases)}
            nodes[path] = replace(node, joined=children)
            nodes |= {each: replace(spec.nodes[each], packed=JOINED) for each in paths}
    return spec.with_nodes(nodes), changed


def lay_out_rows(rows: str) -> Pass:
    """Every weight that is multiplied as plain rows [outputs, inputs]; the token table ends in rows of zeros."""
    dtype = getattr(torch, ROWS[rows])

    def lay_out_rows(spec: GraphSpec, tensors: Tensors) -> tuple[GraphSpec, Tensors]:
        nodes, changed = {}, dict(tensors)
        for path, node in spec.nodes.items():
            name = f"{path}.weight"
            if isinstance(node, Attention):
                nodes[path] = replace(node, format=ROWS[rows])
                name = f"{path}.{'_'.join(node.joined)}.weight"
            elif isinstance(node, Conv1d | Embedding) or (isinstance(node, Linear) and node.packed != JOINED):
                nodes[path] = replace(node, packed=rows)
            else:
                continue
            weight = tensors[name]
            if isinstance(node, Conv1d):
                weight = weight.permute(0, 2, 1).flatten(1)
            elif isinstance(node, Embedding):
                weight = torch.nn.functional.pad(weight, (0, 0, 0, -len(weight) % TABLE_ROWS))
            changed[name] = weight.to(dtype).contiguous()
        return spec.with_nodes(nodes), changed

    return lay_out_rows


_CPU: dict[str, tuple[Pass, ...]] = {
    "float32": (widen, pack_convolutions("float32"), pack_linears("float32"), pack_embedding("float32")),
    "bfloat16": (
        widen,
        narrow_attention,
        pack_convolutions("bfloat16"),
        pack_linears("bfloat16"),
        pack_embedding("bfloat16"),
    ),
    # the stem is 5 % of the encoder's work and sees the raw spectrogram, whose frames differ by orders of magnitude
    "int8": (
        widen,
        narrow_attention,
        quantize_audio,
        pack_convolutions("bfloat16"),
        pack_linears("int8"),
        pack_embedding("int8"),
    ),
}

PASSES: dict[str, dict[str, tuple[Pass, ...]]] = {
    "cpu": _CPU,
    "max": {dtype: (widen, join_projections, lay_out_rows(rows)) for rows, dtype in ROWS.items()},
}
"""By backend and dtype."""


def apply(dtype: str, spec: GraphSpec, tensors: Tensors, backend: str = "cpu") -> tuple[GraphSpec, Tensors]:
    """Run the passes of a dtype and backend.

    Raises:
        SpecError: a pass left a tensor that its node does not describe.
    """
    spec = replace(spec, dtype=dtype, backend=backend)
    for step in PASSES[backend][dtype]:
        spec, tensors = step(spec, tensors)
        spec.validate()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != spec.parameters():
            wrong = sorted(set(shapes.items()) ^ set(spec.parameters().items()))
            raise SpecError(f"pass {step.__name__} left tensors and nodes that disagree: {wrong[:6]}")
    return spec, tensors


def _packed(
    spec: GraphSpec, tensors: Tensors, kind: type, packed: str, matrix: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[GraphSpec, Tensors]:
    """Pack the weight of every node of a kind, which `matrix` turns to [outputs, inputs]."""
    nodes, changed = {}, dict(tensors)
    for path, node in spec.nodes.items():
        if isinstance(node, kind):
            nodes[path] = replace(node, packed=packed)
            weight = matrix(tensors[f"{path}.weight"])
            if packed == "int8":
                weight, scales = quantize(weight)
                changed[f"{path}.weight_scales"] = scales
                changed[f"{path}.weight_sums"] = weight.sum(1, dtype=torch.int32)
            changed[f"{path}.weight"] = panels(weight.to(getattr(torch, packed)), path)
    return spec.with_nodes(nodes), changed


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row of float32 [outputs, inputs] to steps of a 127th of its largest magnitude.

    Returns:
        int8 [outputs, inputs], and the float32 scale of every row. A row of zeros has the scale 0.
    """
    largest = weight.abs().amax(1)
    steps = 127 / largest.masked_fill(largest == 0, torch.inf)
    return torch.round(weight * steps[:, None]).to(torch.int8), largest / 127


def panels(weight: torch.Tensor, path: str) -> torch.Tensor:
    """[outputs, inputs] -> [outputs / 32 rounded up, words, 32, values of a word], missing outputs filled with 0.

    Raises:
        SpecError: the inputs do not fill whole words.
    """
    outputs, inputs = weight.shape
    values = VALUES_PER_WORD[str(weight.dtype).removeprefix("torch.")]
    if inputs % values:
        raise SpecError(f"{path}: {inputs} inputs cannot be packed {values} to a word; choose another dtype")
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -outputs % PANEL))
    return padded.reshape(-1, PANEL, inputs // values, values).transpose(1, 2).contiguous()
