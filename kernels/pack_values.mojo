"""Values of attention in the panels of a matrix product: a column is a channel, and words run along the frames.

    values of a head                           panel 0 of the head, bfloat16
    frame 0   [ c0 | c1 | .. | c63 ]           word 0   [ c0 of 0, 1 | c1 of 0, 1 | .. | c31 of 0, 1 ]
    frame 1   [ c0 | c1 | .. | c63 ]    ->     word 1   [ c0 of 2, 3 | c1 of 2, 3 | .. | c31 of 2, 3 ]
    ..                                         ..

A unit is one head. Channels beyond the last, and frames missing from the last word, are zero. Where steps
are stored (`attention`), every channel has a scale, its largest magnitude over the most steps, behind the words of its
panel.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu.host import DeviceContext
from std.memory import bitcast

from .attention import most_steps, scale_rows, stored
from .audio_pool import every_place, places_in_pool
from .pack import to_bfloat16
from .share import share_units
from .tile import Floats, LANES, PANEL, VECTORS, Words, group


@no_inline
def pack_values[
    format: DType, head_dim: Int
](packed: Pointer[mut=True, Int32, _], values: Pointer[Float32, _], heads_at: List[Int], frames: Int, heads: Int):
    """Pack [audios, frames, heads * head_dim] -> heads of panels [head_dim / 32, words, 32] along the frames; arguments
    as of `pack_keys`."""
    comptime panels = (head_dim + PANEL - 1) // PANEL
    comptime own = stored[format]()
    comptime steps = most_steps[own]()
    comptime share = group[format]()
    var words = (frames + share - 1) // share
    var panel_size = (words + scale_rows[format]()) * PANEL
    var state = heads * head_dim

    def one_head(unit: Int) {imm}:
        var audio, head = divmod(unit, heads)
        comptime for panel in range(panels):
            var block = packed.unsafe_offset(((heads_at[audio] + head) * panels + panel) * panel_size)
            comptime for v in range(VECTORS):
                comptime column = panel * PANEL + v * LANES
                comptime if column >= head_dim:
                    for k in range(words + scale_rows[format]()):
                        block.unsafe_offset(k * PANEL + v * LANES).unsafe_store(Words(0))
                else:
                    var first = values.unsafe_offset(audio * frames * state + head * head_dim + column)
                    var inverse = Floats(1)
                    comptime if own.is_integral():
                        var largest = Floats(0)
                        for frame in range(frames):
                            largest = max(largest, abs(first.unsafe_offset(frame * state).unsafe_load[width=LANES]()))
                        inverse = largest.gt(0).select(steps / largest, Floats(0))
                        block.unsafe_offset(words * PANEL + v * LANES).unsafe_store(
                            bitcast[DType.int32, LANES](largest / steps)
                        )
                    for k in range(words):
                        var word = Words(0)
                        comptime for i in range(share):
                            var frame = k * share + i
                            if frame < frames:
                                var x = first.unsafe_offset(frame * state).unsafe_load[width=LANES]()
                                word |= part_of_word[own](x, inverse) << Words(32 // share * i)
                        block.unsafe_offset(k * PANEL + v * LANES).unsafe_store(word)

    share_units(len(heads_at) * heads, one_head)


@always_inline
def part_of_word[format: DType](x: Floats, inverse: Floats) -> Words:
    """The bits of 16 values, in the lowest places of 16 words."""
    comptime if format == DType.float32:
        return bitcast[DType.int32, LANES](x)
    elif format == DType.bfloat16:
        return (to_bfloat16[LANES](x) >> 16).cast[DType.int32]()
    else:
        comptime bits = Words((1 << (32 // group[format]())) - 1)
        return (x * inverse).__round__().cast[DType.int32]() & bits


@extensibility.register("whisper2max.pack_values")
struct PackValues:
    """Shapes: values [audios, frames, heads * head_dim]; output [audios, heads, head_dim / 32 rounded up, words,
    32 * values of a word], with one more row of words for scales unless in float32. CPU only."""

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
            every_place(values.dim_size(0), values.dim_size(2) // head_dim),
            values.dim_size(1),
            values.dim_size(2) // head_dim,
        )


@extensibility.register("whisper2max.store_values")
struct StoreValues:
    """In place. Shapes: audios [n], the places of a pool; layer [1]; values [n, frames, heads * head_dim]; pool [audios,
    layers, heads, ..] as of whisper2max.pack_values. CPU only."""

    @staticmethod
    def execute[
        format: DType, head_dim: Int, target: StaticString
    ](
        pool: MutableInputTensor[dtype=format, rank=6, ...],
        values: InputTensor[dtype=DType.float32, rank=3, ...],
        layer: InputTensor[dtype=DType.int64, rank=1, ...],
        audios: InputTensor[dtype=DType.int64, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.store_values runs on the CPU only"
        comptime share = group[format]()
        var rows = (values.dim_size(1) + share - 1) // share + scale_rows[format]()
        if pool.dim_size(3) != (head_dim + PANEL - 1) // PANEL or pool.dim_size(4) != rows:
            raise Error("whisper2max.store_values: the pool is made for other heads or another number of frames")
        pack_values[format, head_dim](
            pool.unsafe_ptr().unsafe_bitcast[Int32](),
            values.unsafe_ptr(),
            places_in_pool(audios, values, Int(layer[0]), pool.dim_size(0), pool.dim_size(1), pool.dim_size(2), head_dim),
            values.dim_size(1),
            values.dim_size(2) // head_dim,
        )
