"""Values of attention in the panels of a matrix product: a column is a channel, and words run along the frames.

    values of a head                           panel 0 of the head, bfloat16
    frame 0   [ c0 | c1 | .. | c63 ]           word 0   [ c0 of 0, 1 | c1 of 0, 1 | .. | c31 of 0, 1 ]
    frame 1   [ c0 | c1 | .. | c63 ]    ->     word 1   [ c0 of 2, 3 | c1 of 2, 3 | .. | c31 of 2, 3 ]
    ..                                         ..

One task packs one head. Channels beyond the last, and the second frame of an odd last pair, are zero.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.memory import bitcast

from .tile import LANES, PANEL, VECTORS, group


@no_inline
def pack_values[
    format: DType, head_dim: Int
](packed: Pointer[mut=True, Int32, _], values: Pointer[Float32, _], audios: Int, frames: Int, heads: Int):
    """Pack [audios, frames, heads * head_dim] -> panels [audios, heads, head_dim / 32, words, 32] along the frames."""
    comptime panels = (head_dim + PANEL - 1) // PANEL
    var words = (frames + group[format]() - 1) // group[format]()
    var state = heads * head_dim

    def one_head(task: Int) {imm}:
        var audio, head = divmod(task, heads)
        comptime for panel in range(panels):
            var block = packed.unsafe_offset((task * panels + panel) * words * PANEL)
            for k in range(words):
                comptime for v in range(VECTORS):
                    comptime column = panel * PANEL + v * LANES
                    var word = SIMD[DType.int32, LANES](0)
                    comptime if column < head_dim:
                        comptime for i in range(group[format]()):
                            var frame = k * group[format]() + i
                            if frame < frames:
                                var row = values.unsafe_offset((audio * frames + frame) * state + head * head_dim)
                                var x = row.unsafe_offset(column).unsafe_load[width=LANES]()
                                comptime if format == DType.float32:
                                    word = bitcast[DType.int32, LANES](x)
                                else:
                                    var half = bitcast[DType.uint16, LANES](x.cast[DType.bfloat16]())
                                    word |= half.cast[DType.int32]() << SIMD[DType.int32, LANES](16 * i)
                    block.unsafe_offset(k * PANEL + v * LANES).unsafe_store(word)

    sync_parallelize(one_head, audios * heads)


@extensibility.register("whisper2max.pack_values")
struct PackValues:
    """Shapes: values [audios, frames, heads * head_dim]; output [audios, heads, head_dim / 32 rounded up, words,
    32 * values of a word]. CPU only."""

    @staticmethod
    def execute[
        format: DType, head_dim: Int, target: StaticString
    ](
        output: OutputTensor[dtype=format, rank=5, ...],
        values: InputTensor[dtype=DType.float32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.pack_values runs on the CPU only"
        pack_values[format, head_dim](
            output.unsafe_ptr().unsafe_bitcast[Int32](),
            values.unsafe_ptr(),
            values.dim_size(0),
            values.dim_size(1),
            values.dim_size(2) // head_dim,
        )
