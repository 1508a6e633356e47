"""Rows of a table that is stored in the panels of a matrix product: the token embedding that also gives the logits.

    token t is column t % 32 of panel t // 32; its word k lies 32 words after its word k - 1
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.memory import bitcast

from .tile import PANEL, group


def gather_row[
    format: DType
](output: Pointer[mut=True, Float32, _], panels: Pointer[Int32, _], token: Int, words: Int, scale: Float32):
    """Write row `token` of a packed table of `words` words a row, times `scale`."""
    var panel, column = divmod(token, PANEL)
    var first = panels.unsafe_offset(panel * words * PANEL + column)
    for k in range(words):
        var word = first.unsafe_offset(k * PANEL).unsafe_load()
        var values = bitcast[format, group[format]()](word).cast[DType.float32]() * scale
        output.unsafe_offset(k * group[format]()).unsafe_store(values)


def require_tokens(tokens: InputTensor[dtype=DType.int64, rank=2, ...], rows: Int) raises:
    """Raise unless every token is a row of a table of `rows` rows."""
    for i in range(tokens.dim_size(0)):
        for j in range(tokens.dim_size(1)):
            if not 0 <= Int(tokens[i, j]) < rows:
                raise Error("whisper2max.embedding: a token lies outside of the table")


@extensibility.register("whisper2max.embedding")
struct Embedding:
    """Shapes: tokens [batch, length]; weight and scales as of whisper2max.linear; output [batch, length, n_in].
    CPU only."""

    @staticmethod
    def execute[
        format: DType, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        tokens: InputTensor[dtype=DType.int64, rank=2, ...],
        weight: InputTensor[dtype=format, rank=4, ...],
        scales: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.embedding runs on the CPU only"
        require_tokens(tokens, scales.dim_size(0) if format == DType.int8 else weight.dim_size(0) * PANEL)
        var length, width = tokens.dim_size(1), output.dim_size(2)
        for i in range(tokens.dim_size(0) * length):
            var token = Int(tokens[i // length, i % length])
            gather_row[format](
                output.unsafe_ptr().unsafe_offset(i * width),
                weight.unsafe_ptr().unsafe_bitcast[Int32](),
                token,
                weight.dim_size(1),
                scales[token] if format == DType.int8 else Float32(1),
            )
