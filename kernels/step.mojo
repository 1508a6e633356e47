"""The three parts of a decoder block for one new token per row, each a single kernel.

The weights of a step are read once and used for a few rows, so it runs at the speed of memory as long as all threads
read all the time. In each kernel they go through its products together (`phases`):

    step_self_attention    norm . query, key, value . attention to the cache . out + x
    step_cross_attention   norm . query . attention to the audio . out + x
    step_mlp               norm . first half, GELU . second half + x

Rows are normalised and packed by every thread for itself, which is cheaper than to wait for another.

Shapes: x and output [batch, 1, state]; norm_weight and norm_bias [state]; eps [1]; every linear layer as weight,
scales, sums and bias of whisper2max.linear. CPU only.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from max.runtime.asyncrt import parallelism_level

from .attention import attend_rows, packed_audio
from .cached_attention import attend_to_cache, cache_of
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

from .tile import PANEL, group, spread

comptime UNITS_PER_THREAD = 4
"""Units of a phase: few enough to be read front to back, enough to make up for a thread that is late."""

comptime BYTES_WORTH_A_THREAD = 1 << 17
"""Kernels of a step follow each other closely: threads are still awake, and cost less than `tasks` reckons."""


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


@extensibility.register("whisper2max.step_mlp")
struct StepMLP:
    """Output x + second(activation(first(norm(x)))); `activation` is "gelu" or "gelu_tanh"."""

    @staticmethod
    def execute[
        format: DType, activation: StaticString, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        norm_weight: InputTensor[dtype=DType.float32, rank=1, ...],
        norm_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        eps: InputTensor[dtype=DType.float32, rank=1, ...],
        first_weight: InputTensor[dtype=format, rank=4, ...],
        first_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        first_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        first_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        second_weight: InputTensor[dtype=format, rank=4, ...],
        second_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        second_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        second_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.step_mlp runs on the CPU only"
        var rows, state = x.dim_size(0) * x.dim_size(1), x.dim_size(2)
        var first = matrix[format](first_weight, first_scales, first_sums, first_bias, state)
        var second = matrix[format](second_weight, second_scales, second_sums, second_bias, first.columns)
        var of_norm = norm(norm_weight, norm_bias, eps)
        var threads = threads_worth(first.bytes() + second.bytes())
        var units = threads * UNITS_PER_THREAD
        var hidden = List[Float32](unsafe_uninit_length=rows * first.columns)
        var hidden_data, x_data, output_data = hidden.unsafe_ptr(), x.unsafe_ptr(), output.unsafe_ptr()
        var activated, added = plain(activation_named[activation](), x_data), adding(x_data)
        var phases = Phases(2)

        def one_thread(thread: Int) {imm}:
            var packed = Packed[format](rows, max(first.words, second.words))
            packed.take_normalised(x_data, of_norm, first.words)

            def widen(unit: Int) {imm}:
                packed.times(first, hidden_data, activated, unit, units)

            phases.share(0, units, widen)
            packed.take(hidden_data, second.words)

            def narrow(unit: Int) {imm}:
                packed.times(second, output_data, added, unit, units)

            phases.share(1, units, narrow)

        sync_parallelize(one_thread, threads)
        _ = hidden^
        _ = phases^


@extensibility.register("whisper2max.step_cross_attention")
struct StepCrossAttention:
    """Output x + out(attention of query(norm(x)) to the audio); keys and values as of whisper2max.attention."""

    @staticmethod
    def execute[
        format: DType, audio: DType, head_dim: Int, frames: Int, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        norm_weight: InputTensor[dtype=DType.float32, rank=1, ...],
        norm_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        eps: InputTensor[dtype=DType.float32, rank=1, ...],
        query_weight: InputTensor[dtype=format, rank=4, ...],
        query_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        query_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        query_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        out_weight: InputTensor[dtype=format, rank=4, ...],
        out_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        out_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        out_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        keys: InputTensor[dtype=audio, rank=5, ...],
        values: InputTensor[dtype=audio, rank=5, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.step_cross_attention runs on the CPU only"
        var rows, state = x.dim_size(0) * x.dim_size(1), x.dim_size(2)
        var project = matrix[format](query_weight, query_scales, query_sums, query_bias, state)
        var out = matrix[format](out_weight, out_scales, out_sums, out_bias, state)
        var of_norm = norm(norm_weight, norm_bias, eps)
        var heard = packed_audio[audio, head_dim, frames](keys, values, rows, state)
        var threads = threads_worth(project.bytes() + out.bytes() + heard.bytes())
        var units = threads * UNITS_PER_THREAD
        var query = List[Float32](unsafe_uninit_length=rows * state)
        var mixed = List[Float32](unsafe_uninit_length=rows * state)
        var query_data, mixed_data = query.unsafe_ptr(), mixed.unsafe_ptr()
        var x_data, output_data = x.unsafe_ptr(), output.unsafe_ptr()
        var projected, added = plain(NONE, x_data), adding(x_data)
        var phases = Phases(3)

        def one_thread(thread: Int) {imm}:
            var packed = Packed[format](rows, project.words)
            packed.take_normalised(x_data, of_norm, project.words)

            def some_queries(unit: Int) {imm}:
                packed.times(project, query_data, projected, unit, units)

            phases.share(0, units, some_queries)

            def one_head(unit: Int) {imm}:
                attend_rows[audio, head_dim, frames](mixed_data, query_data, heard, unit, 0, heard.rows)

            phases.share(1, heard.audios * heard.heads, one_head)
            packed.take(mixed_data, out.words)

            def some_outputs(unit: Int) {imm}:
                packed.times(out, output_data, added, unit, units)

            phases.share(2, units, some_outputs)

        sync_parallelize(one_thread, threads)
        _ = query^
        _ = mixed^
        _ = phases^


@extensibility.register("whisper2max.step_self_attention")
struct StepSelfAttention:
    """Output x + out(attention of query(norm(x)) to the cache, the new token included); positions and caches as of
    whisper2max.cached_attention."""

    @staticmethod
    def execute[
        format: DType, layer: Int, head_dim: Int, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        norm_weight: InputTensor[dtype=DType.float32, rank=1, ...],
        norm_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        eps: InputTensor[dtype=DType.float32, rank=1, ...],
        query_weight: InputTensor[dtype=format, rank=4, ...],
        query_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        query_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        query_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        key_weight: InputTensor[dtype=format, rank=4, ...],
        key_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        key_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        key_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        value_weight: InputTensor[dtype=format, rank=4, ...],
        value_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        value_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        value_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        out_weight: InputTensor[dtype=format, rank=4, ...],
        out_scales: InputTensor[dtype=DType.float32, rank=1, ...],
        out_sums: InputTensor[dtype=DType.int32, rank=1, ...],
        out_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        positions: InputTensor[dtype=DType.int64, rank=1, ...],
        cache_k: MutableInputTensor[dtype=DType.float32, rank=4, ...],
        cache_v: MutableInputTensor[dtype=DType.float32, rank=4, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.step_self_attention runs on the CPU only"
        var rows, state = x.dim_size(0) * x.dim_size(1), x.dim_size(2)
        var query = matrix[format](query_weight, query_scales, query_sums, query_bias, state)
        var key = matrix[format](key_weight, key_scales, key_sums, key_bias, state)
        var value = matrix[format](value_weight, value_scales, value_sums, value_bias, state)
        var out = matrix[format](out_weight, out_scales, out_sums, out_bias, state)
        var of_norm = norm(norm_weight, norm_bias, eps)
        var cache = cache_of[layer](positions, cache_k, cache_v, x.dim_size(0), x.dim_size(1), state)
        var threads = threads_worth(4 * query.bytes())
        var units = threads * UNITS_PER_THREAD
        var projections = List[Float32](unsafe_uninit_length=3 * rows * state)
        var mixed = List[Float32](unsafe_uninit_length=rows * state)
        var query_data, mixed_data = projections.unsafe_ptr(), mixed.unsafe_ptr()
        var key_data = query_data.unsafe_offset(rows * state)
        var value_data = key_data.unsafe_offset(rows * state)
        var x_data, output_data = x.unsafe_ptr(), output.unsafe_ptr()
        var projected, added = plain(NONE, x_data), adding(x_data)
        var phases = Phases(3)

        def one_thread(thread: Int) {imm}:
            var packed = Packed[format](rows, query.words)
            packed.take_normalised(x_data, of_norm, query.words)

            def some_projections(unit: Int) {imm}:
                packed.times(query, query_data, projected, unit, units)
                packed.times(key, key_data, projected, unit, units)
                packed.times(value, value_data, projected, unit, units)

            phases.share(0, units, some_projections)

            def one_head(unit: Int) {imm}:
                attend_to_cache[head_dim](
                    mixed_data, untracked(query_data), untracked(key_data), untracked(value_data), cache, unit
                )

            phases.share(1, rows * (state // head_dim), one_head)
            packed.take(mixed_data, out.words)

            def some_outputs(unit: Int) {imm}:
                packed.times(out, output_data, added, unit, units)

            phases.share(2, units, some_outputs)

        sync_parallelize(one_thread, threads)
        _ = projections^
        _ = mixed^
        _ = phases^
