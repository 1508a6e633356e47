"""Attention of many queries to the same keys and values: encoder self-attention and decoder cross-attention.

Keys and values were packed by `pack_keys` and `pack_values` into panels of 32 columns, so both products run in the
register tile of `tile`. A unit is one head of a block of queries, the rows of a tile at a time, here twelve:

                 frames                              frames
            [  keys panel 0 | panel 1 | .. ]                              [ values ]
    query   ------------------------------>  scores   -- softmax -->  w   [ panel  ]  -->  output
    12 x 64                                  12 x 1500               12 x 1500  1500 x 64

The scores of twelve queries to all 1500 frames are 72 KB and stay in the second-level cache, so the largest score is
known before the first exponential, and nothing is rescaled. Queries are scaled by log2(e) / sqrt(head_dim), which
turns the exponential into a power of two. The softmax and all sums are float32.

Formats: in float32 and bfloat16 the operands of both products are of that format. In int8, keys and values alone are
stored so, and widened where they are multiplied; queries and weights stay float32. It halves what a decoder reads of
the audio for every token, and every frame's keys and every channel's values have a scale of their own.

bfloat16 asks for 16 bits. An x86 without vdpbf16ps would have to multiply them as float32; it multiplies twice as many
int16 in the same time. There queries, keys and values are whole steps of a scale of their own, 32767 and 1023 in the
largest magnitude of a row or a column, and weights are whole 32767ths: most frames have a small one, and all together
they count.

The scales of 32 columns lie behind their panel, as one more row of words, which bfloat16 leaves unused:

    panel   word 0   [ column 0 | column 1 | .. | column 31 ]
            ..
            last     [ column 0 | column 1 | .. | column 31 ]
            scales   [ float32  | float32  | .. | float32   ]      not in float32
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.memory import bitcast
from std.sys import CompilationTarget

from .pack import largest_magnitude, rounded
from .product import Numbers, PackedWords, untracked
from .share import share_units
from .tile import (
    BF16,
    Floats,
    LANES,
    PANEL,
    ROWS,
    TILES,
    VECTORS,
    chain_words,
    group,
    multiply,
    multiply_add,
    multiply_widened,
    spread,
    spread_out,
    tile_rows,
)


comptime ROWS_PER_UNIT = 16 * ROWS
comptime LOG2_E = 1.4426950408889634

comptime FIXED_POINT = CompilationTarget.is_x86() and not BF16
comptime MOST_STEPS = 32767
"""Of queries and weights in int16."""

comptime MOST_STEPS_STORED = 1023
"""Of keys and values in int16: the products of a chain just fit into an int32."""


def coefficient(i: Int) -> Float32:
    """Of x ** i in the power series of 2 ** x: ln(2) ** i / i!"""
    var c = Float64(1)
    for k in range(1, i + 1):
        c *= 0.6931471805599453 / Float64(k)
    return Float32(c)


@always_inline
def power_of_two[terms: Int](x: Floats) -> Floats:
    """Return 2 ** x for x <= 0, by a power series of `terms` terms around the nearest integer."""
    var bounded = max(x, Floats(-126))
    var whole = bounded.__round__()
    var t = bounded - whole
    comptime last = coefficient(terms - 1)
    var y = Floats(last)
    comptime for i in range(1, terms):
        comptime next = coefficient(terms - 1 - i)
        y = multiply_add[LANES](y, t, Floats(next))
    return bitcast[DType.float32, LANES](
        bitcast[DType.int32, LANES](y) + (whole.cast[DType.int32]() << SIMD[DType.int32, LANES](23))
    )


def scale_rows[format: DType]() -> Int:
    """Rows of words behind a panel that hold the scales of its columns."""
    return 0 if format == DType.float32 else 1


def stored[format: DType]() -> DType:
    """What keys and values of a format are in memory: int16 for bfloat16 where that is multiplied faster."""
    return DType.int16 if format == DType.bfloat16 and FIXED_POINT else format


def most_steps[format: DType]() -> Float32:
    """Of keys and values of an integer format, the steps in the largest magnitude of a column."""
    return 127 if format == DType.int8 else MOST_STEPS_STORED


def operand[format: DType]() -> DType:
    """The format of queries and weights where keys and values are of `format`."""
    return DType.float32 if format == DType.int8 else stored[format]()


@fieldwise_init
struct PackedAudio[format: DType, head_dim: Int, frames: Int](Copyable, TrivialRegisterPassable):
    """Packed keys and values of recordings: those of a recording's heads follow each other."""

    comptime key_panels = (Self.frames + PANEL - 1) // PANEL
    comptime value_panels = (Self.head_dim + PANEL - 1) // PANEL
    comptime key_words = Self.head_dim // group[Self.format]()
    comptime value_words = (Self.frames + group[Self.format]() - 1) // group[Self.format]()
    comptime key_panel = (Self.key_words + scale_rows[Self.format]()) * PANEL
    comptime value_panel = (Self.value_words + scale_rows[Self.format]()) * PANEL
    comptime keys_of_head = Self.key_panels * Self.key_panel
    comptime values_of_head = Self.value_panels * Self.value_panel

    var keys: PackedWords
    var values: PackedWords
    var heads: Int
    var heads_apart: Int
    """Heads from one recording to the next: there may be other layers between them."""

    def bytes(self) -> Int:
        """Of the keys and values of one recording."""
        return self.heads * (Self.keys_of_head + Self.values_of_head) * 4


def require_fit[
    format: DType, head_dim: Int, frames: Int
](heads: Int, state: Int, panels: Int, key_panel: Int, value_panel: Int) raises:
    """Raise unless keys and values are packed for `heads` heads of `state` floats and for these frames."""
    comptime assert head_dim % LANES == 0, "head_dim must be a multiple of 16"
    comptime Heard = PackedAudio[format, head_dim, frames]
    var fit = heads * head_dim == state and panels == Heard.key_panels
    if not fit or key_panel * PANEL != Heard.key_panel or value_panel * PANEL != Heard.value_panel:
        raise Error("whisper2max.attention: keys are packed for other heads or another number of frames")


def pooled_audio[
    format: DType, head_dim: Int, frames: Int
](
    keys: InputTensor[dtype=format, rank=6, ...],
    values: InputTensor[dtype=format, rank=6, ...],
    layer: Int,
    state: Int,
) raises -> PackedAudio[format, head_dim, frames]:
    """What a layer has packed of the recordings of a pool, [audios, layers, heads, ..]; raise unless it fits."""
    comptime Heard = PackedAudio[format, head_dim, frames]
    var layers, heads = keys.dim_size(1), keys.dim_size(2)
    require_fit[format, head_dim, frames](heads, state, keys.dim_size(3), keys.dim_size(4), values.dim_size(4))
    if not 0 <= layer < layers or values.dim_size(1) != layers or values.dim_size(0) != keys.dim_size(0):
        raise Error("whisper2max.attention: the pool of audio holds other layers")
    var first = layer * heads
    return Heard(
        untracked(keys.unsafe_ptr().unsafe_bitcast[Int32]()).unsafe_offset(first * Heard.keys_of_head),
        untracked(values.unsafe_ptr().unsafe_bitcast[Int32]()).unsafe_offset(first * Heard.values_of_head),
        heads,
        layers * heads,
    )


@fieldwise_init
struct Block(Copyable, TrivialRegisterPassable):
    """Neighbouring queries `first` to `end` that attend to the same recording."""

    var audio: Int
    var first: Int
    var end: Int


def add_blocks(mut blocks: List[Block], audio: Int, first: Int, end: Int):
    """Cut queries `first` to `end` into blocks that a unit takes."""
    for start in range(first, end, ROWS_PER_UNIT):
        blocks.append(Block(audio, start, min(start + ROWS_PER_UNIT, end)))


def blocks_by_audio(audios: InputTensor[dtype=DType.int64, rank=1, ...], count: Int, length: Int) raises -> List[Block]:
    """The queries of rows of `length`, by the recording that each row hears; raise unless the pool has all `count`.

    Rows that hear the same recording read it once if they are neighbours.
    """
    var blocks = List[Block]()
    var rows = audios.dim_size(0)
    var first = 0
    for row in range(rows):
        var audio = Int(audios[row])
        if not 0 <= audio < count:
            raise Error("whisper2max.attention: a row hears an audio that the pool does not hold")
        if row + 1 == rows or Int(audios[row + 1]) != audio:
            add_blocks(blocks, audio, first * length, (row + 1) * length)
            first = row + 1
    return blocks^


@always_inline
def times_panel[
    format: DType, rows: Int, word_step: Int, row_step: Int
](
    sums: Pointer[mut=True, Float32, _],
    sum_step: Int,
    x: Pointer[Int32, _],
    panel: Pointer[Int32, _],
    words: Int,
):
    """Rows of x, in words of the operand format, times one panel of keys or values, scales included."""
    comptime if format == DType.int8:
        multiply_widened[rows, word_step, row_step](sums, sum_step, x.unsafe_bitcast[Float32](), panel, words)
    else:
        multiply[stored[format](), rows, word_step, row_step](sums, sum_step, x, panel, words)
    comptime if stored[format]().is_integral():
        comptime for v in range(VECTORS):
            var scales = panel.unsafe_offset(words * PANEL + v * LANES).unsafe_load[width=LANES]()
            for r in range(rows):
                var place = sums.unsafe_offset(r * sum_step + v * LANES)
                place.unsafe_store(place.unsafe_load[width=LANES]() * bitcast[DType.float32, LANES](scales))


@no_inline
def attend_tile[
    format: DType, rows: Int, head_dim: Int, frames: Int
](
    output: Pointer[mut=True, Float32, _],
    query: Pointer[Float32, _],
    keys: PackedWords,
    values: PackedWords,
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
        weights: Scratch of rows * score_stride words.
        used_rows: The rest is padding.
        stride: Floats between rows of query and output.
    """
    comptime Heard = PackedAudio[format, head_dim, frames]
    comptime own = operand[format]()
    comptime parts = spread[own]()
    comptime words = head_dim // group[own]()
    comptime padded = Heard.key_panels * PANEL
    comptime score_stride = padded + LANES
    comptime weight_stride = padded // group[own]() * parts + LANES
    comptime scale = Float32(LOG2_E * Float64(head_dim) ** -0.5)
    comptime terms = 8 if format == DType.float32 else 5
    comptime products = 2 * chain_words[DType.int16]()
    comptime assert products * MOST_STEPS * MOST_STEPS_STORED < 1 << 31, "a chain of int16 overflows"

    var row_scales = Array[Float32, rows](fill=1)
    for r in range(rows):
        var to_steps = scale
        comptime if own == DType.int16:
            if r < used_rows:
                var largest = largest_magnitude(query.unsafe_offset(r * stride), head_dim)
                if largest > 0:
                    to_steps = Float32(MOST_STEPS) / largest
                    row_scales[r] = largest * scale / Float32(MOST_STEPS)
        for k in range(words):
            var word = SIMD[DType.int32, parts](0)
            if r < used_rows:
                var place = r * stride + k * group[own]()
                var scaled = query.unsafe_offset(place).unsafe_load[width=group[own]()]() * to_steps
                comptime if own == DType.int16:
                    scaled = scaled.__round__()
                word = spread_out[own, 1](rounded[own, 1](scaled))
            comptime for i in range(parts):
                packed.unsafe_offset((k * parts + i) * rows + r).unsafe_store(word[i])

    for panel in range(Heard.key_panels):
        times_panel[format, rows, rows, 1](
            scores.unsafe_offset(panel * PANEL),
            score_stride,
            packed,
            keys.unsafe_offset(panel * Heard.key_panel),
            Heard.key_words,
        )

    var totals = Array[Float32, rows](fill=1)
    for r in range(used_rows):
        var row = scores.unsafe_offset(r * score_stride)
        comptime for pad in range(frames, padded):
            row.unsafe_offset(pad).unsafe_store(Float32.MIN)
        var largest = Floats(Float32.MIN)
        for i in range(0, padded, LANES):
            largest = max(largest, row.unsafe_offset(i).unsafe_load[width=LANES]())
        var row_scale = Floats(row_scales[r])
        var top = Floats(largest.reduce_max()) * row_scale
        var total = Floats(0)
        for i in range(0, padded, PANEL):
            comptime for v in range(VECTORS):
                var score = row.unsafe_offset(i + v * LANES).unsafe_load[width=LANES]()
                var w = power_of_two[terms](score * row_scale - top)
                comptime if own == DType.int16:
                    w = (w * Float32(MOST_STEPS)).__round__()
                total += w
                comptime share = LANES // group[own]()
                var place = r * weight_stride + (i + v * LANES) // group[own]() * parts
                weights.unsafe_offset(place).unsafe_store(spread_out[own, share](rounded[own, share](w)))
        totals[r] = total.reduce_add()

    comptime for panel in range(Heard.value_panels):
        # the scores have served
        times_panel[format, rows, 1, weight_stride](
            scores, PANEL, weights, values.unsafe_offset(panel * Heard.value_panel), Heard.value_words
        )
        for r in range(used_rows):
            comptime for v in range(VECTORS):
                comptime column = panel * PANEL + v * LANES
                comptime if column < head_dim:
                    var sums = scores.unsafe_offset(r * PANEL + v * LANES).unsafe_load[width=LANES]()
                    output.unsafe_offset(r * stride + column).unsafe_store(sums / totals[r])


def attend_block[
    format: DType, head_dim: Int, frames: Int
](
    output: Pointer[mut=True, Float32, _],
    query: Pointer[Float32, _],
    heard: PackedAudio[format, head_dim, frames],
    block: Block,
    head: Int,
):
    """One head of the queries of a block."""
    comptime Heard = PackedAudio[format, head_dim, frames]
    comptime score_stride = Heard.key_panels * PANEL + LANES
    var state = heard.heads * head_dim
    var place = block.audio * heard.heads_apart + head
    var keys = heard.keys.unsafe_offset(place * Heard.keys_of_head)
    var values = heard.values.unsafe_offset(place * Heard.values_of_head)
    var room = tile_rows(block.end - block.first)
    var packed = List[Int32](unsafe_uninit_length=room * head_dim)
    var scores = List[Float32](unsafe_uninit_length=room * score_stride)
    var weights = List[Int32](unsafe_uninit_length=room * score_stride)
    for start in range(block.first, block.end, ROWS):
        var used = min(ROWS, block.end - start)
        var tile = tile_rows(used)
        var first = start * state + head * head_dim
        comptime for rows_of_tile in TILES:
            comptime if rows_of_tile <= ROWS:
                if tile == rows_of_tile:
                    attend_tile[format, rows_of_tile, head_dim, frames](
                        output.unsafe_offset(first),
                        query.unsafe_offset(first),
                        keys,
                        values,
                        packed.unsafe_ptr(),
                        scores.unsafe_ptr(),
                        weights.unsafe_ptr(),
                        used,
                        state,
                    )


@no_inline
def attention[
    format: DType, head_dim: Int, frames: Int
](
    output: Pointer[mut=True, Float32, _],
    query: Pointer[Float32, _],
    heard: PackedAudio[format, head_dim, frames],
    blocks: List[Block],
):
    """Attention of all queries, [.., heads * head_dim], to the frames of their recording."""

    def one_head(unit: Int) {imm}:
        var head, block = divmod(unit, len(blocks))
        attend_block(output, query, heard, blocks[block], head)

    share_units(len(blocks) * heard.heads, one_head)


@extensibility.register("whisper2max.attention")
struct Attention:
    """Shapes: query and output [audios, length, heads * head_dim]; keys [audios, heads, frames / 32 rounded up, words,
    32 * values of a word] from whisper2max.pack_keys; values [audios, heads, head_dim / 32 rounded up, words,
    32 * values of a word] from whisper2max.pack_values. CPU only."""

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
        var audios, length, state = query.dim_size(0), query.dim_size(1), query.dim_size(2)
        var heads = keys.dim_size(1)
        require_fit[format, head_dim, frames](heads, state, keys.dim_size(2), keys.dim_size(3), values.dim_size(3))
        if keys.dim_size(0) != audios or values.dim_size(0) != audios:
            raise Error("whisper2max.attention: keys and values are of another number of audios than the queries")
        var heard = PackedAudio[format, head_dim, frames](
            untracked(keys.unsafe_ptr().unsafe_bitcast[Int32]()),
            untracked(values.unsafe_ptr().unsafe_bitcast[Int32]()),
            heads,
            heads,
        )
        var blocks = List[Block]()
        for audio in range(audios):
            add_blocks(blocks, audio, audio * length, (audio + 1) * length)
        attention(output.unsafe_ptr(), query.unsafe_ptr(), heard, blocks)


@extensibility.register("whisper2max.audio_attention")
struct AudioAttention:
    """Shapes: query and output [rows, length, heads * head_dim]; layer [1]; audios [rows], the recording of the pool
    that each row hears; keys and values [audios, layers, heads, ..] of whisper2max.store_keys and store_values.
    CPU only."""

    @staticmethod
    def execute[
        format: DType, head_dim: Int, frames: Int, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        layer: InputTensor[dtype=DType.int64, rank=1, ...],
        audios: InputTensor[dtype=DType.int64, rank=1, ...],
        keys: InputTensor[dtype=format, rank=6, ...],
        values: InputTensor[dtype=format, rank=6, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.audio_attention runs on the CPU only"
        if audios.dim_size(0) != query.dim_size(0):
            raise Error("whisper2max.attention: audios are given for another number of rows")
        var heard = pooled_audio[format, head_dim, frames](keys, values, Int(layer[0]), query.dim_size(2))
        var blocks = blocks_by_audio(audios, keys.dim_size(0), query.dim_size(1))
        attention(output.unsafe_ptr(), query.unsafe_ptr(), heard, blocks)
