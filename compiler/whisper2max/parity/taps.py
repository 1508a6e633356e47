"""Which values of the network are compared, which graph and kernel give each, and where a torch tree has it.

The list follows from the walked tree, never from the generated builders: a value that a builder does not offer, or a
reference does not reach, fails the run.

Graphs with their values as outputs run the kernels that ship, in the same order. A value that exists only inside a
kernel cannot be an output: it is named (`Tap.inside`) with the first output of the kernel that it leads to, through
which it is judged.
"""

from dataclasses import dataclass

from whisper2max.graph.ir import Embedding, Gelu, GraphSpec, LayerNorm, Linear, Positions

LOGITS = "decoder.logits"
STATES = "encoder.ln_post"


@dataclass(frozen=True)
class Tap:
    """One value that a graph gives.

    Attributes:
        path: its canonical name: that of the module whose output it is, CONVOLUTION.gelu, ATTENTION.qkv_attention
            (before the output projection), ATTENTION.residual, or BLOCK for the output of a whole block.
        module: canonical path of the module that has the value in a torch tree.
        side: "output" or "input" of that module.
        kernel: the shipped kernel that computes it, or several, joined with " + ".
        inside: outputs of modules that exist only inside this kernel and lead to this value.
    """

    path: str
    module: str
    side: str
    kernel: str
    inside: tuple[str, ...] = ()


LOG_MEL = Tap("log_mel", "log_mel", "output", "log_mel")

_FUSED = "step_block"
_OF_AUDIO = (".cross_attn.key", ".cross_attn.value")


def graph_taps(spec: GraphSpec) -> dict[str, list[str]]:
    """Paths of the values of every graph that has any, in data order."""
    return {graph: list(taps) for graph, taps in taps_of(spec).items()}


def taps_of(spec: GraphSpec) -> dict[str, dict[str, Tap]]:
    """Every value by graph and path, in data order: encoder, audio, extend, step."""
    every = _taps(spec)
    decoder = [tap for tap in every if tap.path.startswith("decoder.")]
    graphs = {
        "encoder": [tap for tap in every if tap.path.startswith("encoder.")],
        "audio": [tap for tap in decoder if tap.path.endswith(_OF_AUDIO)],
        "extend": [tap for tap in decoder if not tap.path.endswith(_OF_AUDIO)],
        "step": _fused([tap for tap in decoder if not tap.path.endswith(_OF_AUDIO)]),
    }
    return {graph: {tap.path: tap for tap in taps} for graph, taps in graphs.items()}


def block_taps(spec: GraphSpec, side: str) -> dict[str, Tap]:
    """Values of the first block of "encoder" or "decoder", which the graph of a block by itself offers."""
    taps = taps_of(spec)["encoder" if side == "encoder" else "extend"]
    block = f"{side}.blocks.0"
    return {path: tap for path, tap in taps.items() if path == block or path.startswith(f"{block}.")}


def data_paths(spec: GraphSpec) -> list[str]:
    """Paths of all values in data order."""
    return [LOG_MEL.path, *(tap.path for tap in _taps(spec))]


def _taps(spec: GraphSpec) -> list[Tap]:
    """Every value in data order, by the kernels of the encoder and of `extend`."""
    taps = []
    for path, node in spec.nodes.items():
        side, _, inside = path.partition(".")
        block = ".".join(path.split(".")[:3]) if inside.startswith("blocks.") else None
        if path == "encoder.conv1":
            taps.append(Tap(f"{path}.gelu", "encoder.conv2", "input", "conv1d", (path,)))
        elif isinstance(node, Positions):
            # conv2 and its GELU are one kernel, whose output no module of a torch tree has
            convolved = ("encoder.conv2",) if side == "encoder" else ()
            kernel = "conv1d + add_positions" if convolved else "add_positions"
            taps.append(Tap(path, f"{side}.blocks.0", "input", kernel, convolved))
        elif isinstance(node, Linear) and path.endswith(".out"):
            attention = path.removesuffix(".out")
            crossed = f"{block}.cross_attn_ln" in spec.nodes and not attention.endswith(".cross_attn")
            consumer = f"{block}.cross_attn_ln" if crossed else f"{block}.mlp_ln"
            taps.append(Tap(f"{attention}.qkv_attention", path, "input", _attention(attention)))
            taps.append(Tap(f"{attention}.residual", consumer, "input", "linear_add", (path,)))
        elif path.endswith(".mlp.2"):
            taps.append(Tap(block, block, "output", "linear_add", (path,)))
        elif isinstance(node, Gelu):
            taps.append(Tap(path, path, "output", "linear", (path.replace(".mlp.1", ".mlp.0"),)))
        elif isinstance(node, Embedding | LayerNorm) or (isinstance(node, Linear) and not path.endswith(".mlp.0")):
            kernel = {Embedding: "embedding", LayerNorm: "layer_norm", Linear: "linear"}[type(node)]
            taps.append(Tap(path, path, "output", kernel))
    return [*taps, Tap(LOGITS, LOGITS, "output", "linear")]


def _attention(path: str) -> str:
    """The kernel of an attention."""
    if path.endswith(".cross_attn"):
        return "audio_attention"
    return "attention" if path.startswith("encoder.") else "cached_attention"


def _fused(taps: list[Tap]) -> list[Tap]:
    """The values of `step`: a whole block is one kernel, and what a thread normalises for itself is inside it."""
    fused, within = [], []
    for tap in taps:
        if ".blocks." not in tap.path:
            fused.append(tap)
        elif tap.path.endswith("_ln"):
            within.append(tap.path)
        else:
            inside = (*within, *tap.inside)
            fused.append(Tap(tap.path, tap.module, tap.side, _FUSED, inside))
            within = []
    return fused
