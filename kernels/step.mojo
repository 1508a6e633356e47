"""A decoder block for one new token per row, as a single kernel.

The weights of a step are read once and used for a few rows, so it runs at the speed of memory as long as all threads
read all the time. They are woken once for a block, and go through its products together (`phases`):

    norm . query, key, value . attention to the cache . out + x
    norm . query . attention to the audio . out + x
    norm . first half, GELU . second half + x

Rows are normalised and packed by every thread for itself, which is cheaper than to wait for another. What the threads
share between phases is an output of the kernel too (`operands.py` names it), so that a proof sees the values of the
program that ships:

    values [9.., rows, state]   query | key | value | attention | + x | query | attention | + x | GELU, as wide as it is
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from max.runtime.asyncrt import parallelism_level

from .attention import Block, PackedAudio, attend_block, blocks_by_audio, pooled_audio
from .cached_attention import Cache, attend_to_cache, cache_of
from .layer_norm import normalise_row
from .phases import Phases
from .product import (
    Finish,
    Matrix,
    NONE,
    Numbers,
    activation_named,
    adding,
    contiguous,
    finish_panel,
    matrix,
    pack_tiles,
    plain,
    room_for,
    untracked,
)
from .share import UNITS_PER_THREAD
from .tile import PANEL, group, spread

comptime BYTES_WORTH_A_THREAD = 1 << 17
"""Kernels of a step follow each other closely: threads are still awake, and cost less than `share` reckons."""


@fieldwise_init
struct Norm(Copyable, TrivialRegisterPassable):
    """A layer normalisation of rows of `width` floats."""

    var weight: Numbers
    var bias: Numbers
    var eps: Float32
    var width: Int


def norm(
    weight: InputTensor[dtype=DType.float32, rank=1, ...],
    bias: InputTensor[dtype=DType.float32, rank=1, ...],
    eps: InputTensor[dtype=DType.float32, rank=1, ...],
) -> Norm:
    """The normalisation with these weights."""
    return Norm(untracked(weight.unsafe_ptr()), untracked(bias.unsafe_ptr()), eps[0], weight.dim_size(0))


struct Packed[format: DType](Movable):
    """A thread's own copy of a few rows, packed to be multiplied."""

    var words: List[Int32]
    var scales: List[Float32]
    var rows: Int

    def __init__(out self, rows: Int, words: Int):
        """Room for `rows` rows of at most `words` words."""
        self.words = List[Int32](unsafe_uninit_length=room_for(rows) * words * spread[Self.format]())
        self.scales = List[Float32](unsafe_uninit_length=room_for(rows))
        self.rows = rows

    def take(mut self, x: Pointer[Float32, _], words: Int):
        """Pack rows of `words` words."""
        var rows = contiguous(x, self.rows, words * group[Self.format]())
        pack_tiles[Self.format](self.words.unsafe_ptr(), self.scales.unsafe_ptr(), rows, 0, self.rows, words)

    def take_normalised(mut self, x: Pointer[Float32, _], norm: Norm, words: Int):
        """Normalise the rows of x and pack them."""
        var normalised = List[Float32](unsafe_uninit_length=self.rows * norm.width)
        var y = normalised.unsafe_ptr()
        for r in range(self.rows):
            var place = r * norm.width
            normalise_row(y.unsafe_offset(place), x.unsafe_offset(place), norm.weight, norm.bias, norm.width, norm.eps)
        self.take(y, words)
        _ = normalised^

    def times(
        self, weight: Matrix[Self.format], output: Pointer[mut=True, Float32, _], finish: Finish, unit: Int, units: Int
    ):
        """A unit of output = rows @ weight.T + bias, finished: some of the panels."""
        var panels = weight.panel_count()
        var sums = List[Int32](unsafe_uninit_length=room_for(self.rows) * PANEL)
        for panel in range(unit * panels // units, (unit + 1) * panels // units):
            finish_panel[Self.format](
                output,
                sums.unsafe_ptr(),
                self.words.unsafe_ptr(),
                self.scales.unsafe_ptr(),
                weight,
                finish,
                0,
                self.rows,
                panel,
            )


def threads_worth(bytes: Int) -> Int:
    """Threads for a kernel that reads `bytes`."""
    return max(1, min(bytes // BYTES_WORTH_A_THREAD, parallelism_level(None)))


comptime Values = Pointer[Float32, MutUntrackedOrigin]
"""Rows that some threads write in one phase and all read in the next."""


def writable(pointer: Pointer[Float32, _]) -> Values:
    """The same address, for parts of a kernel that are gone before what it points to."""
    return pointer.unsafe_mut_cast[True]().unsafe_origin_cast[MutUntrackedOrigin]()


@fieldwise_init
struct Shared(Copyable, TrivialRegisterPassable):
    """What all threads of a step have in common: rows of `state` floats, and the units that a product is cut into."""

    var rows: Int
    var state: Int
    var units: Int


@fieldwise_init
struct SelfAttention[format: DType, head_dim: Int](Copyable, TrivialRegisterPassable):
    """To x + out(attention of query(norm(x)) to the cache, the new token included)."""

    comptime phases = 3

    var norm: Norm
    var query: Matrix[Self.format]
    var key: Matrix[Self.format]
    var value: Matrix[Self.format]
    var out: Matrix[Self.format]
    var cache: Cache

    def bytes(self) -> Int:
        """Of the weights."""
        return 4 * self.query.bytes()

    def run(
        self,
        y: Values,
        x: Values,
        values: Values,
        mut packed: Packed[Self.format],
        phases: Phases,
        first: Int,
        shared: Shared,
    ):
        """A thread's share of y, in the phases from `first` on; `values` are query, key, value and attention."""
        var size = shared.rows * shared.state
        var query_data = values
        var key_data = values.unsafe_offset(size)
        var value_data = values.unsafe_offset(2 * size)
        var mixed_data = values.unsafe_offset(3 * size)
        var projected, added = plain(NONE, x), adding(x)
        packed.take_normalised(x, self.norm, self.query.words)

        def some_projections(unit: Int) {imm}:
            packed.times(self.query, query_data, projected, unit, shared.units)
            packed.times(self.key, key_data, projected, unit, shared.units)
            packed.times(self.value, value_data, projected, unit, shared.units)

        phases.share(first, shared.units, some_projections)

        def one_head(unit: Int) {imm}:
            attend_to_cache[Self.head_dim](mixed_data, query_data, key_data, value_data, self.cache, unit)

        phases.share(first + 1, shared.rows * (shared.state // Self.head_dim), one_head)
        packed.take(mixed_data, self.out.words)

        def some_outputs(unit: Int) {imm}:
            packed.times(self.out, y, added, unit, shared.units)

        phases.share(first + 2, shared.units, some_outputs)


@fieldwise_init
struct CrossAttention[format: DType, audio: DType, head_dim: Int, frames: Int](Copyable, TrivialRegisterPassable):
    """To x + out(attention of query(norm(x)) to the audio)."""

    comptime phases = 3

    var norm: Norm
    var query: Matrix[Self.format]
    var out: Matrix[Self.format]
    var heard: PackedAudio[Self.audio, Self.head_dim, Self.frames]
    var blocks: Pointer[Block, ImmUntrackedOrigin]
    var block_count: Int

    def bytes(self) -> Int:
        """Of the weights and of the audio's keys and values."""
        return 2 * self.query.bytes() + self.block_count * self.heard.bytes()

    def run(
        self,
        y: Values,
        x: Values,
        values: Values,
        mut packed: Packed[Self.format],
        phases: Phases,
        first: Int,
        shared: Shared,
    ):
        """A thread's share of y, in the phases from `first` on; `values` are query and attention."""
        var query_data = values
        var mixed_data = values.unsafe_offset(shared.rows * shared.state)
        var projected, added = plain(NONE, x), adding(x)
        packed.take_normalised(x, self.norm, self.query.words)

        def some_queries(unit: Int) {imm}:
            packed.times(self.query, query_data, projected, unit, shared.units)

        phases.share(first, shared.units, some_queries)

        def one_head(unit: Int) {imm}:
            var block, head = divmod(unit, self.heard.heads)
            attend_block(mixed_data, query_data, self.heard, self.blocks.unsafe_offset(block)[], head)

        phases.share(first + 1, self.block_count * self.heard.heads, one_head)
        packed.take(mixed_data, self.out.words)

        def some_outputs(unit: Int) {imm}:
            packed.times(self.out, y, added, unit, shared.units)

        phases.share(first + 2, shared.units, some_outputs)


@fieldwise_init
struct MLP[format: DType](Copyable, TrivialRegisterPassable):
    """To x + narrow(activation(widen(norm(x))))."""

    comptime phases = 2

    var norm: Norm
    var widen: Matrix[Self.format]
    var narrow: Matrix[Self.format]
    var activation: Int

    def bytes(self) -> Int:
        """Of the weights."""
        return self.widen.bytes() + self.narrow.bytes()

    def run(
        self,
        y: Values,
        x: Values,
        wide: Values,
        mut packed: Packed[Self.format],
        phases: Phases,
        first: Int,
        shared: Shared,
    ):
        """A thread's share of y, in the phases from `first` on; `wide` are the activated rows."""
        var activated, added = plain(self.activation, x), adding(x)
        packed.take_normalised(x, self.norm, self.widen.words)

        def some_wide(unit: Int) {imm}:
            packed.times(self.widen, wide, activated, unit, shared.units)

        phases.share(first, shared.units, some_wide)
        packed.take(wide, self.narrow.words)

        def some_outputs(unit: Int) {imm}:
            packed.times(self.narrow, y, added, unit, shared.units)

        phases.share(first + 1, shared.units, some_outputs)


@extensibility.register("whisper2max.step_block")
struct StepBlock:
    """Shapes: x and output [rows, 1, state]; values [8 + width of the MLP / state, rows, state]; layer [1]; norms as
    weight and bias [state] and eps [1]; every linear layer as weight, scales, sums and bias of whisper2max.linear;
    positions, slots and caches as of whisper2max.cached_attention; audios and their keys and values as of
    whisper2max.audio_attention. `activation` is "gelu" or "gelu_tanh". CPU only."""

    @staticmethod
    def execute[
        format: DType, audio: DType, head_dim: Int, frames: Int, activation: StaticString, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        values: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        layer: InputTensor[dtype=DType.int64, rank=1, ...],
        attn_ln_weight: InputTensor[dtype=DType.float32, rank=1, ...],
        attn_ln_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        attn_ln_eps: InputTensor[dtype=DType.float32, rank=1, ...],
        attn_query_weight: InputTensor[dtype=format, rank=4, ...],
        attn_query_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        attn_query_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        attn_query_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        attn_key_weight: InputTensor[dtype=format, rank=4, ...],
        attn_key_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        attn_key_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        attn_key_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        attn_value_weight: InputTensor[dtype=format, rank=4, ...],
        attn_value_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        attn_value_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        attn_value_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        attn_out_weight: InputTensor[dtype=format, rank=4, ...],
        attn_out_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        attn_out_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        attn_out_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        cross_attn_ln_weight: InputTensor[dtype=DType.float32, rank=1, ...],
        cross_attn_ln_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        cross_attn_ln_eps: InputTensor[dtype=DType.float32, rank=1, ...],
        cross_attn_query_weight: InputTensor[dtype=format, rank=4, ...],
        cross_attn_query_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        cross_attn_query_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        cross_attn_query_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        cross_attn_out_weight: InputTensor[dtype=format, rank=4, ...],
        cross_attn_out_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        cross_attn_out_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        cross_attn_out_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        mlp_ln_weight: InputTensor[dtype=DType.float32, rank=1, ...],
        mlp_ln_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        mlp_ln_eps: InputTensor[dtype=DType.float32, rank=1, ...],
        mlp_0_weight: InputTensor[dtype=format, rank=4, ...],
        mlp_0_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        mlp_0_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        mlp_0_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        mlp_2_weight: InputTensor[dtype=format, rank=4, ...],
        mlp_2_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        mlp_2_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        mlp_2_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        positions: InputTensor[dtype=DType.int64, rank=1, ...],
        slots: InputTensor[dtype=DType.int32, rank=2, ...],
        audios: InputTensor[dtype=DType.int64, rank=1, ...],
        cache_keys: MutableInputTensor[dtype=DType.float32, rank=4, ...],
        cache_values: MutableInputTensor[dtype=DType.float32, rank=4, ...],
        audio_keys: InputTensor[dtype=audio, rank=6, ...],
        audio_values: InputTensor[dtype=audio, rank=6, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.step_block runs on the CPU only"
        var rows, state = x.dim_size(0), x.dim_size(2)
        if x.dim_size(1) != 1 or audios.dim_size(0) != rows:
            raise Error("whisper2max.step_block: every row has one token and one audio")
        var of_self = SelfAttention[format, head_dim](
            norm(attn_ln_weight, attn_ln_bias, attn_ln_eps),
            matrix[format](attn_query_weight, attn_query_scales, attn_query_sums, attn_query_bias, state),
            matrix[format](attn_key_weight, attn_key_scales, attn_key_sums, attn_key_bias, state),
            matrix[format](attn_value_weight, attn_value_scales, attn_value_sums, attn_value_bias, state),
            matrix[format](attn_out_weight, attn_out_scales, attn_out_sums, attn_out_bias, state),
            cache_of(Int(layer[0]), positions, slots, cache_keys, cache_values, rows, 1, state),
        )
        var blocks = blocks_by_audio(audios, audio_keys.dim_size(0), 1)
        var of_audio = CrossAttention[format, audio, head_dim, frames](
            norm(cross_attn_ln_weight, cross_attn_ln_bias, cross_attn_ln_eps),
            matrix[format](
                cross_attn_query_weight, cross_attn_query_scales, cross_attn_query_sums, cross_attn_query_bias, state
            ),
            matrix[format](cross_attn_out_weight, cross_attn_out_scales, cross_attn_out_sums, cross_attn_out_bias, state),
            pooled_audio[audio, head_dim, frames](audio_keys, audio_values, Int(layer[0]), state),
            untracked(blocks.unsafe_ptr()),
            len(blocks),
        )
        var widen = matrix[format](mlp_0_weight, mlp_0_scales, mlp_0_sums, mlp_0_bias, state)
        var mlp = MLP[format](
            norm(mlp_ln_weight, mlp_ln_bias, mlp_ln_eps),
            widen,
            matrix[format](mlp_2_weight, mlp_2_scales, mlp_2_sums, mlp_2_bias, widen.columns),
            activation_named[activation](),
        )
        if values.dim_size(0) * state != 8 * state + widen.columns or values.dim_size(1) != rows:
            raise Error("whisper2max.step_block: there is no room for the values of all rows")
        var threads = threads_worth(of_self.bytes() + of_audio.bytes() + mlp.bytes())
        var shared = Shared(rows, state, threads * UNITS_PER_THREAD)
        var x_data, output_data = writable(x.unsafe_ptr()), writable(output.unsafe_ptr())
        var of_self_data = writable(values.unsafe_ptr())
        var size = rows * state
        var after_self, of_audio_data = of_self_data.unsafe_offset(4 * size), of_self_data.unsafe_offset(5 * size)
        var after_audio, wide = of_self_data.unsafe_offset(7 * size), of_self_data.unsafe_offset(8 * size)
        var phases = Phases(of_self.phases + of_audio.phases + mlp.phases)

        def one_thread(thread: Int) {imm}:
            var packed = Packed[format](rows, max(of_self.query.words, mlp.narrow.words))
            of_self.run(after_self, x_data, of_self_data, packed, phases, 0, shared)
            of_audio.run(after_audio, after_self, of_audio_data, packed, phases, of_self.phases, shared)
            var first = of_self.phases + of_audio.phases
            mlp.run(output_data, after_audio, wide, packed, phases, first, shared)

        sync_parallelize(one_thread, threads)
        _ = blocks^
        _ = phases^
