"""GraphSpec -> the Python source of `model.py`, through the jinja2 template of the same name.

The template holds the program, the spec its numbers: dimensions, eps, strides, which Linear has a
bias. Source is checked to compile; when it does not, the error shows it with line numbers.
"""

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

import whisper2max.templates
from whisper2max.core.errors import BuildError, SpecError
from whisper2max.graph.ir import JOINED, Attention, Conv1d, Embedding, GraphSpec, Linear
from whisper2max.graph.source import check_source
from whisper2max.kernels.operands import STEP_LAYERS, STEP_VALUES

TEMPLATES = Path(whisper2max.templates.__path__[0])


def emit(spec: GraphSpec, templates: Path = TEMPLATES) -> str:
    """The source of `model.py` for a validated spec whose weights are packed.

    Raises:
        SpecError: the spec is invalid, or its weights are not as the builders read them.
        BuildError: the template fails, or what it gave is no Python; shows numbered lines.
    """
    spec.validate()
    unpacked = [path for path, node in spec.nodes.items() if getattr(node, "packed", "") is None]
    if unpacked:
        raise SpecError(f"{', '.join(unpacked[:2])} and others are not packed: run the passes first")
    environment = Environment(
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    try:
        source = environment.get_template("model.py.j2").render(**_context(spec))
    except TemplateError as error:
        line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
        raise BuildError(f"the template model.py.j2 failed{line}: {error}") from error
    check_source(source, "model.py")
    return source


def _context(spec: GraphSpec) -> dict[str, object]:
    nodes = spec.nodes
    state = spec.dims.n_audio_state
    activations = {node for path, node in nodes.items() if path.endswith(".mlp.1")}
    if len(activations) != 1:
        raise SpecError(f"encoder and decoder use different activations: {sorted(map(str, activations))}")
    gelu = activations.pop()
    linear, embedding = _only(spec, Linear, "packed"), _only(spec, Embedding, "packed")
    if linear != embedding:
        raise SpecError(f"the builders pack Linears and the token table alike, not as {linear} and {embedding}")
    return {
        "spec": spec,
        "formats": {
            "conv1d": _only(spec, Conv1d, "packed"),
            "linear": linear,
            "self_attention": _only(spec, Attention, "format", "encoder.", causal=False),
            "cross_attention": _only(spec, Attention, "format", "decoder.", causal=False),
        },
        "conv1": nodes["encoder.conv1"],
        "conv2": nodes["encoder.conv2"],
        "ln_post": nodes["encoder.ln_post"],
        "ln": nodes["decoder.ln"],
        "widening": nodes["encoder.blocks.0.mlp.0"].out_features // state,
        "activation": {"none": "gelu", "tanh": "gelu_tanh"}[gelu.approximate],
        "encoder_block": _first_block(spec, "encoder"),
        "decoder_block": _first_block(spec, "decoder"),
        "table_rows": spec.parameters()["decoder.token_embedding.weight"][0],
        "step_layers": STEP_LAYERS,
        "step_values": STEP_VALUES,
        "times_state": _times_text_state(spec.dims.n_text_state),
        "no_bias": _no_bias,
        "biases": _biases,
        "conv_arguments": _conv_arguments,
    }


def _only(spec: GraphSpec, kind: type, attribute: str, prefix: str = "", **like: object) -> str:
    """The one value that an attribute has in all nodes of a kind whose path begins so and that are `like` this."""
    nodes = [node for path, node in spec.nodes.items() if isinstance(node, kind) and path.startswith(prefix)]
    nodes = [node for node in nodes if all(getattr(node, name) == value for name, value in like.items())]
    values = {getattr(node, attribute) for node in nodes} - {JOINED}
    if len(values) != 1:
        raise SpecError(f"the builders read one format for every {kind.__name__}, the nodes have {sorted(values)}")
    return values.pop()


def _first_block(spec: GraphSpec, side: str) -> dict[str, object]:
    prefix = f"{side}.blocks.0."
    return {
        path.removeprefix(prefix).replace(".", "_"): node
        for path, node in spec.nodes.items()
        if path.startswith(prefix)
    }


def _times_text_state(state: int) -> Callable[[int], str]:
    """Writes a width as a multiple of the decoder's."""
    return lambda width: "N_TEXT_STATE" if width == state else f"{width // state} * N_TEXT_STATE"


def _no_bias(linear: Linear) -> str:
    return "" if linear.bias else ", bias=False"


def _biases(block: dict[str, Linear], attention: str, *children: str) -> str:
    """Which projections of an attention have a bias, as arguments by name."""
    return ", ".join(f"{child}={block[f'{attention}_{child}'].bias}" for child in children)


def _conv_arguments(conv: Conv1d) -> str:
    return f"{conv.kernel_size}, {conv.stride}, {conv.padding}"
