"""Attention of many queries to the same keys and values: encoder self-attention and decoder cross-attention.

Keys and values were packed by `pack_keys` and `pack_values` into panels of 32 columns, so both products run in the
register tile of `tile`. One task takes a block of queries of one head, twelve at a time:

                 frames                              frames
            [  keys panel 0 | panel 1 | .. ]                              [ values ]
    query   ------------------------------>  scores   -- softmax -->  w   [ panel  ]  -->  output
    12 x 64                                  12 x 1500               12 x 1500  1500 x 64

The scores of twelve queries to all 1500 frames are 72 KB and stay in the second-level cache, so the largest score is
known before the first exponential, and nothing is rescaled. Queries are scaled by log2(e) / sqrt(head_dim), which
turns the exponential into a power of two. In bfloat16 the operands of both products are rounded, their sums and the
softmax are float32.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.memory import bitcast

from .pack import rounded
from .tile import Floats, LANES, PANEL, ROWS, VECTORS, group, multiply, tile_rows


comptime ROWS_PER_TASK = 16 * ROWS
comptime LOG2_E = 1.4426950408889634


@always_inline
def power_of_two[terms: Int](x: Floats) -> Floats:
    """Return 2 ** x for x <= 0, by a power series of `terms` terms around the nearest integer."""
    comptime ln2 = 0.6931471805599453
    var bounded = max(x, Floats(-126))
    var whole = bounded.__round__()
    var t = (bounded - whole) * Float32(ln2)
    var y = Floats(1)
    comptime for i in range(terms - 1):
        comptime inverse = Float32(1.0 / Float64(terms - 1 - i))
        y = (y * t).fma(Floats(inverse), Floats(1))
    return bitcast[DType.float32, LANES](
        bitcast[DType.int32, LANES](y) + (whole.cast[DType.int32]() << SIMD[DType.int32, LANES](23))
    )


@no_inline
def attend_tile[
    format: DType, rows: Int, head_dim: Int, frames: Int
](
    output: Pointer[mut=True, Float32, _],
    query: Pointer[Float32, _],
    keys: Pointer[Int32, _],
    values: Pointer[Int32, _],
    packed: Pointer[mut=True, Int32, _],
    scores: Pointer[mut=True, Float32, _],
    weights: Pointer[mut=True, Int32, _],
    used_rows: Int,
    stride: Int,
):
    """Up to `rows` queries of one head.

    Args:
        output: First value of the head in the first row; rows are `stride` apart.
        query: The same of the query.
        keys: Panels of the head.
        values: Panels of the head.
        packed: Scratch of rows * head_dim words.
        scores: Scratch of rows * score_stride floats.
        weights: Scratch of rows * weight_stride words.
        used_rows: The rest is padding.
        stride: Floats between rows of query and output.
    """
    comptime panels = (frames + PANEL - 1) // PANEL
    comptime words = head_dim // group[format]()
    comptime score_stride = panels * PANEL + LANES
    comptime weight_stride = panels * PANEL // group[format]() + LANES
    comptime frame_words = (frames + group[format]() - 1) // group[format]()
    comptime scale = Float32(LOG2_E * Float64(head_dim) ** -0.5)
    comptime terms = 5 if format == DType.bfloat16 else 8

    for r in range(rows):
        for k in range(words):
            var word = Int32(0)
            if r < used_rows:
                var values_of_word = query.unsafe_offset(r * stride + k * group[format]()).unsafe_load[
                    width=group[format]()
                ]() * scale
                word = rounded[format, 1](values_of_word)
            packed.unsafe_offset(k * rows + r).unsafe_store(word)

    for panel in range(panels):
        var sums = Array[Floats, rows * VECTORS](fill=0)
        multiply[format, rows, rows, 1](sums, packed, keys.unsafe_offset(panel * words * PANEL), words)
        comptime for r in range(rows):
            comptime for v in range(VECTORS):
                scores.unsafe_offset(r * score_stride + panel * PANEL + v * LANES).unsafe_store(sums[r * VECTORS + v])

    var totals = Array[Float32, rows](fill=1)
    for r in range(used_rows):
        var row = scores.unsafe_offset(r * score_stride)
        comptime for pad in range(frames, panels * PANEL):
            row.unsafe_offset(pad).unsafe_store(Float32.MIN)
        var largest = Floats(Float32.MIN)
        for i in range(0, panels * PANEL, LANES):
            largest = max(largest, row.unsafe_offset(i).unsafe_load[width=LANES]())
        var top = Floats(largest.reduce_max())
        var total = Floats(0)
        for i in range(0, panels * PANEL, PANEL):
            comptime for v in range(VECTORS):
                var w = power_of_two[terms](row.unsafe_offset(i + v * LANES).unsafe_load[width=LANES]() - top)
                total += w
                comptime share = LANES // group[format]()
                var place = r * weight_stride + (i + v * LANES) // group[format]()
                weights.unsafe_offset(place).unsafe_store(rounded[format, share](w))
        totals[r] = total.reduce_add()

    comptime for panel in range((head_dim + PANEL - 1) // PANEL):
        var sums = Array[Floats, rows * VECTORS](fill=0)
        multiply[format, rows, 1, weight_stride](
            sums, weights, values.unsafe_offset(panel * frame_words * PANEL), frame_words
        )
        comptime for r in range(rows):
            if r < used_rows:
                comptime for v in range(VECTORS):
                    comptime column = panel * PANEL + v * LANES
                    comptime if column < head_dim:
                        output.unsafe_offset(r * stride + column).unsafe_store(sums[r * VECTORS + v] / totals[r])


@no_inline
def attention[
    format: DType, head_dim: Int, frames: Int
](
    output: Pointer[mut=True, Float32, _],
    query: Pointer[Float32, _],
    keys: Pointer[Int32, _],
    values: Pointer[Int32, _],
    audios: Int,
    rows: Int,
    heads: Int,
):
    """Attention of `rows` queries per recording, [audios, rows, heads * head_dim], to the frames of that recording."""
    comptime assert head_dim % LANES == 0, "head_dim must be a multiple of 16"
    comptime panels = (frames + PANEL - 1) // PANEL
    comptime words = head_dim // group[format]()
    comptime frame_words = (frames + group[format]() - 1) // group[format]()
    comptime key_size = panels * words * PANEL
    comptime value_size = (head_dim + PANEL - 1) // PANEL * frame_words * PANEL
    comptime score_stride = panels * PANEL + LANES
    comptime weight_stride = panels * PANEL // group[format]() + LANES
    var state = heads * head_dim
    var blocks = (rows + ROWS_PER_TASK - 1) // ROWS_PER_TASK

    def one_block(task: Int) {imm}:
        var head_of_audio, block = divmod(task, blocks)
        var audio, head = divmod(head_of_audio, heads)
        var first = block * ROWS_PER_TASK
        var end = min(first + ROWS_PER_TASK, rows)
        var packed = List[Int32](unsafe_uninit_length=ROWS * words)
        var scores = List[Float32](unsafe_uninit_length=ROWS * score_stride)
        var weights = List[Int32](unsafe_uninit_length=ROWS * weight_stride)
        for start in range(first, end, ROWS):
            var used = min(ROWS, end - start)
            var tile = tile_rows(used)
            var place = (audio * rows + start) * state + head * head_dim
            comptime for rows_of_tile in [1, 2, 4, 8, ROWS]:
                comptime if rows_of_tile <= ROWS:
                    if tile == rows_of_tile:
                        attend_tile[format, rows_of_tile, head_dim, frames](
                            output.unsafe_offset(place),
                            query.unsafe_offset(place),
                            keys.unsafe_offset(head_of_audio * key_size),
                            values.unsafe_offset(head_of_audio * value_size),
                            packed.unsafe_ptr(),
                            scores.unsafe_ptr(),
                            weights.unsafe_ptr(),
                            used,
                            state,
                        )

    sync_parallelize(one_block, audios * heads * blocks)


@extensibility.register("whisper2max.attention")
struct Attention:
    """Shapes: query and output [batch, length, heads * head_dim]; keys [audios, heads, frames / 32 rounded up, words,
    32 * values of a word] from whisper2max.pack_keys; values [audios, heads, head_dim / 32 rounded up, words,
    32 * values of a word] from whisper2max.pack_values. batch / audios neighbouring rows attend to the same audio.
    CPU only."""

    @staticmethod
    def execute[
        format: DType, head_dim: Int, frames: Int, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        keys: InputTensor[dtype=format, rank=5, ...],
        values: InputTensor[dtype=format, rank=5, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.attention runs on the CPU only"
        var batch, audios, heads = query.dim_size(0), keys.dim_size(0), keys.dim_size(1)
        if audios == 0 or batch % audios != 0 or values.dim_size(0) != audios:
            raise Error("whisper2max.attention: the rows cannot be shared out evenly among the audios")
        if heads * head_dim != query.dim_size(2) or keys.dim_size(2) != (frames + PANEL - 1) // PANEL:
            raise Error("whisper2max.attention: keys are packed for other heads or another number of frames")
        attention[format, head_dim, frames](
            output.unsafe_ptr(),
            query.unsafe_ptr(),
            keys.unsafe_ptr().unsafe_bitcast[Int32](),
            values.unsafe_ptr().unsafe_bitcast[Int32](),
            audios,
            batch // audios * query.dim_size(1),
            heads,
        )
