"""Which values of the network are compared, and where a torch module tree has each of them.

The list follows from the walked tree, never from the generated builders: a value that a builder does
not offer, or a reference does not reach, fails the run.
"""

from dataclasses import dataclass

from whisper2max.graph.ir import Conv1d, Embedding, Gelu, GraphSpec, LayerNorm, Linear, Positions

LOGITS = "decoder.logits"


@dataclass(frozen=True)
class Tap:
    """One value of the network.

    Attributes:
        path: its canonical name: that of the module whose output it is, ATTENTION.qkv_attention (before the
            output projection), ATTENTION.residual, or BLOCK for the output of a whole block.
        module: canonical path of the module that has the value in a torch tree.
        side: "output" or "input" of that module.
    """

    path: str
    module: str
    side: str


def encoder_taps(spec: GraphSpec) -> tuple[Tap, ...]:
    """Values of the encoder graph in data order."""
    return tuple(tap for tap in _taps(spec) if tap.path.startswith("encoder."))


def prompt_taps(spec: GraphSpec) -> tuple[Tap, ...]:
    """Values of the prompt graph in data order, logits last."""
    return tuple(tap for tap in _taps(spec) if tap.path.startswith("decoder."))


def step_taps(spec: GraphSpec) -> tuple[Tap, ...]:
    """Values of the step graph: those of the prompt graph without the projections of the audio states."""
    return tuple(tap for tap in prompt_taps(spec) if not tap.path.endswith((".cross_attn.key", ".cross_attn.value")))


def graph_taps(spec: GraphSpec) -> dict[str, list[str]]:
    """Paths of the values of every graph that ships, by the graph's name."""
    taps = {"encoder": encoder_taps(spec), "prompt": prompt_taps(spec), "step": step_taps(spec)}
    return {name: [tap.path for tap in each] for name, each in taps.items()}


def block_taps(spec: GraphSpec, side: str) -> tuple[Tap, ...]:
    """Values of the first block of "encoder" or "decoder", which the graph of a block by itself offers."""
    block = f"{side}.blocks.0"
    return tuple(tap for tap in _taps(spec) if tap.path == block or tap.path.startswith(f"{block}."))


def _taps(spec: GraphSpec) -> list[Tap]:
    taps = []
    for path, node in spec.nodes.items():
        side, _, inside = path.partition(".")
        block = ".".join(path.split(".")[:3]) if inside.startswith("blocks.") else None
        if isinstance(node, Positions):
            taps.append(Tap(path, f"{side}.blocks.0", "input"))
        elif isinstance(node, Linear) and path.endswith(".out"):
            attention = path.removesuffix(".out")
            crossed = f"{block}.cross_attn_ln" in spec.nodes and not attention.endswith(".cross_attn")
            consumer = f"{block}.cross_attn_ln" if crossed else f"{block}.mlp_ln"
            taps.append(Tap(f"{attention}.qkv_attention", path, "input"))
            taps.append(Tap(path, path, "output"))
            taps.append(Tap(f"{attention}.residual", consumer, "input"))
        elif isinstance(node, Conv1d | Embedding | Gelu | LayerNorm | Linear):
            taps.append(Tap(path, path, "output"))
            if path.endswith(".mlp.2"):
                taps.append(Tap(block, block, "output"))
    return [*taps, Tap(LOGITS, LOGITS, "output")]
