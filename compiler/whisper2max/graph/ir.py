"""GraphSpec: what a Whisper network computes, as a flat list of named nodes.

Names are openai-whisper's module paths, whatever family the checkpoint came from. A node says
what its module computes and which parameters it owns; it holds no weights. `GraphSpec.validate`
lists everything that is missing, unexpected or inconsistent at once, and the text form parses
back to an equal spec:

    encoder.conv1 = Conv1d(in_channels=80, out_channels=512, kernel_size=3, stride=1, padding=1, packed=None)
    encoder.blocks.0.attn_ln = LayerNorm(features=512, eps=1e-05)
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import SpecError, Whisper2MaxError
from whisper2max.core.printable import shortened

DTYPES = ("float32", "bfloat16", "int8")

BACKENDS = ("cpu", "max")
"""What computes the network: this project's kernels for CPUs on packed weights, or MAX's operations and this project's
kernels for devices on plain ones."""

ROWS = {"float32 rows": "float32", "bfloat16 rows": "bfloat16"}
"""Formats of a plain weight [outputs, inputs], and the dtypes that they stand for."""

JOINED = "joined"
"""The format of a Linear whose weight its Attention holds, in one matrix with those of others."""

PACKED = (*DTYPES, *ROWS, JOINED)

TABLE_ROWS = 256
"""A plain token table has a multiple of these rows, because MAX's products on devices want one of the logits."""

PANEL = 32
"""Columns of a panel, the unit in which the kernels read a weight (kernels/tile.mojo)."""

VALUES_PER_WORD = {"float32": 1, "bfloat16": 2, "int8": 4}
"""Values in the four bytes that the kernels multiply at once, by the format of a packed weight."""


def packed_parameters(path: str, outputs: int, inputs: int, packed: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the weight [outputs, inputs] of `path`, in the format that kernels read.

    A packed weight is [outputs / 32 rounded up, words, 32, values of a word]; int8 has a scale for every output
    and the sum of its values.
    """
    if packed == JOINED:
        return {}
    if packed in ROWS:
        return {f"{path}.weight": (outputs, inputs)}
    values = VALUES_PER_WORD[packed]
    shapes: dict[str, tuple[int, ...]] = {
        f"{path}.weight": (-(-outputs // PANEL), -(-inputs // values), PANEL, values),
    }
    if packed == "int8":
        shapes |= {f"{path}.weight_scales": (outputs,), f"{path}.weight_sums": (outputs,)}
    return shapes


@dataclass(frozen=True)
class Conv1d:
    """Convolution over time; its weight is [out, in, kernel], or packed panels or plain rows of [out, kernel * in]."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: int
    packed: str | None = None

    def parameters(self, path: str) -> dict[str, tuple[int, ...]]:
        if self.packed:
            inputs = self.kernel_size * self.in_channels
            filters = packed_parameters(path, self.out_channels, inputs, self.packed)
        else:
            filters = {f"{path}.weight": (self.out_channels, self.in_channels, self.kernel_size)}
        return filters | {f"{path}.bias": (self.out_channels,)}


@dataclass(frozen=True)
class Linear:
    """y = x @ weight.T + bias, weight [out_features, in_features] or packed panels of it; none if it is joined."""

    in_features: int
    out_features: int
    bias: bool
    packed: str | None = None

    def parameters(self, path: str) -> dict[str, tuple[int, ...]]:
        if self.packed == JOINED:
            return {}
        if self.packed:
            owned = packed_parameters(path, self.out_features, self.in_features, self.packed)
        else:
            owned = {f"{path}.weight": (self.out_features, self.in_features)}
        return owned | ({f"{path}.bias": (self.out_features,)} if self.bias else {})


@dataclass(frozen=True)
class LayerNorm:
    """Normalisation over the last axis with weight and bias [features]."""

    features: int
    eps: float

    def parameters(self, path: str) -> dict[str, tuple[int, ...]]:
        return {f"{path}.weight": (self.features,), f"{path}.bias": (self.features,)}


@dataclass(frozen=True)
class Embedding:
    """A table of token vectors, weight [rows, features] or packed panels of it, or those rows and others of zeros up to
    a multiple of `TABLE_ROWS`; the logits reuse it."""

    rows: int
    features: int
    packed: str | None = None

    def parameters(self, path: str) -> dict[str, tuple[int, ...]]:
        if self.packed in ROWS:
            return {f"{path}.weight": (-(-self.rows // TABLE_ROWS) * TABLE_ROWS, self.features)}
        if self.packed:
            return packed_parameters(path, self.rows, self.features, self.packed)
        return {f"{path}.weight": (self.rows, self.features)}


@dataclass(frozen=True)
class Positions:
    """A table of position vectors [rows, features], added to the input; the path names the tensor."""

    rows: int
    features: int

    def parameters(self, path: str) -> dict[str, tuple[int, ...]]:
        return {path: (self.rows, self.features)}


@dataclass(frozen=True)
class Attention:
    """softmax(scale * query @ key.T) @ value per head; children query, key, value and out.

    `format` is what both products round their operands to, or int8 for keys and values that are stored so and
    multiplied by float32; sums and softmax are float32. `joined` are children whose weights, and whose biases with
    zeros where one has none, are one matrix [children * width, width] in this order; it is called by their names, such
    as "query_key_value", and stored in `format`.
    """

    n_head: int
    head_dim: int
    scale: float
    causal: bool
    format: str = "float32"
    joined: tuple[str, ...] = ()

    def parameters(self, path: str) -> dict[str, tuple[int, ...]]:
        if not self.joined:
            return {}
        name, width = f"{path}.{'_'.join(self.joined)}", self.n_head * self.head_dim
        outputs = len(self.joined) * width
        return {f"{name}.weight": (outputs, width), f"{name}.bias": (outputs,)}


@dataclass(frozen=True)
class Gelu:
    """Gaussian error linear unit; approximate is "none" for the exact one."""

    approximate: str

    def parameters(self, path: str) -> dict[str, tuple[int, ...]]:
        return {}


Node = Conv1d | Linear | LayerNorm | Embedding | Positions | Attention | Gelu
KINDS = {kind.__name__: kind for kind in Node.__args__}


@dataclass(frozen=True)
class GraphSpec:
    """A network: its dimensions, the dtype of its weights, its nodes by path in data order, and what computes it."""

    dims: ModelDimensions
    dtype: str
    nodes: Mapping[str, Node]
    backend: str = "cpu"

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight by name, in data order."""
        return {name: shape for path, node in self.nodes.items() for name, shape in node.parameters(path).items()}

    def stored(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of every weight by name, as weights.safetensors holds it."""
        return {
            name: (_stored_dtype(node, name), shape)
            for path, node in self.nodes.items()
            for name, shape in node.parameters(path).items()
        }

    def with_nodes(self, changed: Mapping[str, Node]) -> "GraphSpec":
        """The same spec with some nodes replaced."""
        unknown = sorted(set(changed) - set(self.nodes))
        if unknown:
            raise SpecError(f"no such nodes to replace: {', '.join(unknown)}")
        return replace(self, nodes={**self.nodes, **changed})

    def validate(self) -> "GraphSpec":
        """Return self, or raise SpecError with every fault: nodes that are missing, unexpected, of
        another size than the dimensions say, or unlike the same node of the first block."""
        faults = [f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}"] if self.dtype not in DTYPES else []
        if self.backend not in BACKENDS:
            faults.append(f"backend {self.backend!r} is not one of {', '.join(BACKENDS)}")
        expected = dict(expected_nodes(self.dims))
        faults += [f"{path}: missing, expected {node}" for path, node in expected.items() if path not in self.nodes]
        faults += [f"{path}: unexpected {node}" for path, node in self.nodes.items() if path not in expected]
        for path, node in self.nodes.items():
            if path in expected:
                faults += [f"{path}: {fault}" for fault in _differences(node, expected[path])]
            faults += [f"{path}: {fault}" for fault in _impossible_attributes(node)]
        faults += _wrongly_joined(self.nodes)
        faults += _uneven_blocks(self.nodes)
        if not faults and list(self.nodes) != list(expected):
            faults.append("the nodes are not in data order")
        if faults:
            raise SpecError(
                f"the graph specification has {len(faults)} fault(s): {shortened(faults, '; ', 40)}. "
                "The generated builders loop over equal blocks of a standard Whisper, so this module tree "
                "cannot be converted."
            )
        return self

    def to_text(self) -> str:
        """One line per node; `GraphSpec.parse` reads it back."""
        lines = [f"dims = {_call(self.dims)}", f"dtype = {self.dtype!r}", f"backend = {self.backend!r}"]
        lines += [f"{path} = {_call(node)}" for path, node in self.nodes.items()]
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> "GraphSpec":
        """Read the text form.

        Raises:
            SpecError: a line is not `path = Kind(name=literal, ...)`, with its number.
        """
        values = {}
        evaluate = cache(_evaluate)  # equal blocks have equal lines
        for number, line in enumerate(text.splitlines(), 1):
            path, separator, expression = line.partition(" = ")
            try:
                if not separator or path in values or len(line) > _LONGEST_LINE:
                    raise ValueError("expected `path = Kind(...)`, every path once")
                values[path] = evaluate(expression)
                if type(values[path]) not in _KIND_OF_LINE.get(path, Node.__args__):
                    raise ValueError(f"{path} cannot be that")
            except (ValueError, TypeError, SyntaxError, KeyError, AttributeError, Whisper2MaxError) as error:
                raise SpecError(f"line {number} of the graph text cannot be read, {line[:200]!r}: {error}") from None
            except (RecursionError, MemoryError):
                raise SpecError(f"line {number} of the graph text is nested too deeply") from None
        missing = [name for name in _KIND_OF_LINE if name not in values]
        if missing:
            raise SpecError(f"the graph text does not say {' and '.join(missing)}")
        dims, dtype, backend = (values.pop(name) for name in _KIND_OF_LINE)
        return cls(dims, dtype, values, backend)


_KIND_OF_LINE: dict[str, tuple[type, ...]] = {"dims": (ModelDimensions,), "dtype": (str,), "backend": (str,)}
_LONGEST_LINE = 1000


def expected_nodes(dims: ModelDimensions) -> Iterator[tuple[str, Node]]:
    """Every node of a standard Whisper of these dimensions in data order.

    Sizes follow from `dims`; the attributes that a checkpoint decides (eps, the bias of a Linear,
    the kind of GELU) and those that the passes decide (what is packed and rounded) are given as the original has them.
    """
    state = dims.n_audio_state
    yield "encoder.conv1", Conv1d(dims.n_mels, state, 3, 1, 1)
    yield "encoder.conv2", Conv1d(state, state, 3, 2, 1)
    yield "encoder.positional_embedding", Positions(dims.n_audio_ctx, state)
    for layer in range(dims.n_audio_layer):
        yield from _attention(f"encoder.blocks.{layer}.attn", state, dims.n_audio_head, causal=False)
        yield from _mlp(f"encoder.blocks.{layer}", state)
    yield "encoder.ln_post", LayerNorm(state, 1e-5)
    state = dims.n_text_state
    yield "decoder.token_embedding", Embedding(dims.n_vocab, state)
    yield "decoder.positional_embedding", Positions(dims.n_text_ctx, state)
    for layer in range(dims.n_text_layer):
        yield from _attention(f"decoder.blocks.{layer}.attn", state, dims.n_text_head, causal=True)
        yield from _attention(f"decoder.blocks.{layer}.cross_attn", state, dims.n_text_head, causal=False)
        yield from _mlp(f"decoder.blocks.{layer}", state)
    yield "decoder.ln", LayerNorm(state, 1e-5)


def _attention(path: str, state: int, heads: int, causal: bool) -> Iterator[tuple[str, Node]]:
    yield f"{path}_ln", LayerNorm(state, 1e-5)
    head_dim = state // heads
    yield path, Attention(heads, head_dim, head_dim**-0.5, causal)
    for child in ("query", "key", "value", "out"):
        yield f"{path}.{child}", Linear(state, state, bias=child != "key")


def _mlp(block: str, state: int) -> Iterator[tuple[str, Node]]:
    yield f"{block}.mlp_ln", LayerNorm(state, 1e-5)
    yield f"{block}.mlp.0", Linear(state, 4 * state, bias=True)
    yield f"{block}.mlp.1", Gelu("none")
    yield f"{block}.mlp.2", Linear(4 * state, state, bias=True)


_DECIDED_ELSEWHERE = {"eps", "bias", "approximate", "packed", "format", "joined"}


_JOINED = (), ("query", "key", "value"), ("key", "value")


def _differences(node: Node, expected: Node) -> list[str]:
    if type(node) is not type(expected):
        return [f"is {node}, expected {type(expected).__name__}"]
    return [
        f"{field.name} is {getattr(node, field.name)!r}, expected {getattr(expected, field.name)!r}"
        for field in fields(node)
        if field.name not in _DECIDED_ELSEWHERE and getattr(node, field.name) != getattr(expected, field.name)
    ]


def _impossible_attributes(node: Node) -> list[str]:
    """Faults of the attributes that `_differences` leaves to others."""
    fits = {
        "eps": lambda value: isinstance(value, float) and 0 < value < 1,
        "bias": lambda value: isinstance(value, bool),
        "approximate": lambda value: value in ("none", "tanh"),
        "packed": lambda value: value is None or value in PACKED,
        "format": lambda value: value in DTYPES,
        "joined": lambda value: value in _JOINED,
    }
    return [
        f"{name} is {getattr(node, name)!r:.80}"
        for name, is_possible in fits.items()
        if hasattr(node, name) and not is_possible(getattr(node, name))
    ]


def _stored_dtype(node: Node, name: str) -> str:
    if name.endswith(".weight_sums"):
        return "int32"
    if not name.endswith(".weight"):
        return "float32"
    packed = node.format if isinstance(node, Attention) else getattr(node, "packed", None)
    return ROWS.get(packed, packed) or "float32"


def _wrongly_joined(nodes: Mapping[str, Node]) -> list[str]:
    """Linears whose weights nobody holds, or two."""
    held = {f"{path}.{child}" for path, node in nodes.items() for child in getattr(node, "joined", ())}
    joined = {path for path, node in nodes.items() if getattr(node, "packed", None) == JOINED}
    return [f"{path}: joined in one of itself and its Attention alone" for path in sorted(held ^ joined)]


def _uneven_blocks(nodes: Mapping[str, Node]) -> list[str]:
    faults = []
    for path, node in nodes.items():
        side, _, rest = path.partition(".blocks.")
        layer, _, inside = rest.partition(".")
        first = nodes.get(f"{side}.blocks.0.{inside}")
        if inside and first is not None and node != first:
            faults.append(f"{path}: {node} differs from block 0, {first}")
    return faults


def _call(value: Node | ModelDimensions) -> str:
    arguments = ", ".join(f"{name}={argument!r}" for name, argument in asdict(value).items())
    return f"{type(value).__name__}({arguments})"


def _evaluate(expression: str) -> Node | ModelDimensions | str:
    tree = ast.parse(expression, mode="eval").body
    if not isinstance(tree, ast.Call):
        return ast.literal_eval(tree)
    kind = {**KINDS, "ModelDimensions": ModelDimensions}[tree.func.id]
    if tree.args:
        raise ValueError("arguments are given by name")
    return kind(**{keyword.arg: ast.literal_eval(keyword.value) for keyword in tree.keywords})
