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
    }
    # one kernel of the CPU is a whole block of a step
    graphs["step"] = _fused(graphs["extend"]) if spec.backend == "cpu" else graphs["extend"]
    return {graph: {tap.path: tap for tap in taps} for graph, taps in graphs.items()}


def block_taps(spec: GraphSpec, side: str) -> dict[str, Tap]:
    """Values of the first block of "encoder" or "decoder", which the graph of a block by itself offers."""
    taps = taps_of(spec)["encoder" if side == "encoder" else "extend"]
    block = f"{side}.blocks.0"
    return {path: tap for path, tap in taps.items() if path == block or path.startswith(f"{block}.")}


def data_paths(spec: GraphSpec) -> list[str]:
    """Paths of all values in data order."""
    return [LOG_MEL.path, *(tap.path for tap in _taps(spec))]


# Of each role the kernel on packed weights; on plain ones that over the frames of a window, and that over few rows.
_KERNELS = {
    "convolution": ("conv1d", "matmul", ""),
    "positions": ("add_positions", "add", "add"),
    "tokens": ("embedding", "", "gather"),
    "norm": ("layer_norm", "row_norm", "row_norm"),
    "linear": ("linear", "matmul", "row_product"),
    "linear and residual": ("linear_add", "matmul", "row_product_add"),
    "attention to frames": ("attention", "flash attention", ""),
    "attention to tokens": ("cached_attention", "", "slot_attention"),
    "attention to audio": ("audio_attention", "", "heard_attention"),
}


def _kernel(spec: GraphSpec, role: str, path: str) -> str:
    over_frames = path.startswith("encoder.") or path.endswith(_OF_AUDIO)
    return _KERNELS[role][0 if spec.backend == "cpu" else 1 if over_frames else 2]


def _taps(spec: GraphSpec) -> list[Tap]:
    """Every value in data order, by the kernels of the encoder and of `extend`."""
    taps = []

    def kernel(role: str) -> str:
        return _kernel(spec, role, path)

    for path, node in spec.nodes.items():
        side, _, inside = path.partition(".")
        block = ".".join(path.split(".")[:3]) if inside.startswith("blocks.") else None
        if path == "encoder.conv1":
            taps.append(Tap(f"{path}.gelu", "encoder.conv2", "input", kernel("convolution"), (path,)))
        elif isinstance(node, Positions):
            # conv2 and its GELU are one kernel, whose output no module of a torch tree has
            convolved = ("encoder.conv2",) if side == "encoder" else ()
            kernels = [*([kernel("convolution")] if convolved else []), kernel("positions")]
            taps.append(Tap(path, f"{side}.blocks.0", "input", " + ".join(kernels), convolved))
        elif isinstance(node, Linear) and path.endswith(".out"):
            attention = path.removesuffix(".out")
            crossed = f"{block}.cross_attn_ln" in spec.nodes and not attention.endswith(".cross_attn")
            consumer = f"{block}.cross_attn_ln" if crossed else f"{block}.mlp_ln"
            taps.append(Tap(f"{attention}.qkv_attention", path, "input", kernel(_attention(attention))))
            taps.append(Tap(f"{attention}.residual", consumer, "input", kernel("linear and residual"), (path,)))
        elif path.endswith(".mlp.2"):
            taps.append(Tap(block, block, "output", kernel("linear and residual"), (path,)))
        elif isinstance(node, Gelu):
            taps.append(Tap(path, path, "output", kernel("linear"), (path.replace(".mlp.1", ".mlp.0"),)))
        elif isinstance(node, Embedding | LayerNorm) or (isinstance(node, Linear) and not path.endswith(".mlp.0")):
            role = {Embedding: "tokens", LayerNorm: "norm", Linear: "linear"}[type(node)]
            taps.append(Tap(path, path, "output", kernel(role)))
    return [*taps, Tap(LOGITS, LOGITS, "output", _kernel(spec, "linear", LOGITS))]


def _attention(path: str) -> str:
    """The role of an attention."""
    if path.endswith(".cross_attn"):
        return "attention to audio"
    return "attention to frames" if path.startswith("encoder.") else "attention to tokens"


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
