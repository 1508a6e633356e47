"""GraphSpec -> the Python source of `model.py`, through the jinja2 template of the same name.

The template holds the program, the spec its numbers: dimensions, eps, strides, which Linear has a
bias. Source is checked to compile; when it does not, the error shows it with line numbers.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

import whisper2max.templates
from whisper2max.errors import BuildError, SpecError
from whisper2max.ir import GraphSpec, Linear
from whisper2max.source import check_source

TEMPLATES = Path(whisper2max.templates.__path__[0])


def emit(spec: GraphSpec, templates: Path = TEMPLATES) -> str:
    """The source of `model.py` for a validated spec whose filters are packed.

    Raises:
        SpecError: the spec is invalid, or its convolutions are not in the layout the builders read.
        BuildError: the template fails, or what it gave is no Python; shows numbered lines.
    """
    spec.validate()
    unpacked = [path for path in ("encoder.conv1", "encoder.conv2") if spec.nodes[path].layout != "1kio"]
    if unpacked:
        raise SpecError(f"{' and '.join(unpacked)}: run the passes first, filters must be in layout '1kio'")
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
    return {
        "spec": spec,
        "conv1": nodes["encoder.conv1"],
        "conv2": nodes["encoder.conv2"],
        "ln_post": nodes["encoder.ln_post"],
        "ln": nodes["decoder.ln"],
        "widening": nodes["encoder.blocks.0.mlp.0"].out_features // state,
        "gelu": activations.pop(),
        "encoder_block": _first_block(spec, "encoder"),
        "decoder_block": _first_block(spec, "decoder"),
        "no_bias": _no_bias,
    }


def _first_block(spec: GraphSpec, side: str) -> dict[str, object]:
    prefix = f"{side}.blocks.0."
    return {
        path.removeprefix(prefix).replace(".", "_"): node
        for path, node in spec.nodes.items()
        if path.startswith(prefix)
    }


def _no_bias(linear: Linear) -> str:
    return "" if linear.bias else ", bias=False"
