"""Products of few rows with a plain weight [outputs, inputs], where most of the time goes into reading the weight.

    output[row, n] = activation(sum(x[row, k] * weight[n, k] over k) + bias[n] + add[row, n])

On a device a warp has one output of up to 8 rows: its lanes read 8 inputs each of the same row of the weight, and add up in
float32. So 512 outputs are 128 blocks of 4 warps, which a GPU of 132 multiprocessors reads at once. Some of the weight is
asked for before the first of it is needed.

    lane      0        1              31       0
    weight[n] [ 8 .. ] [ 8 .. ]  ..  [ 8 .. ] [ 8 .. ]  ..

More rows than 8 are further blocks, which find the weight in the cache of the device.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv, erf, tanh
from std.sys import size_of

from .block import THREADS, Values, WARP, WARPS, WIDTH, loaded, stored, warp_sum
from .share import share_range

comptime MOST_ROWS = 8
"""Rows of a block: their sums stay in registers."""


@always_inline
def activated[activation: StaticString](x: Float32) -> Float32:
    """The GELU of a value, exact or with the hyperbolic tangent, or the value."""
    comptime if activation == "gelu":
        return 0.5 * x * (1 + erf(x * Float32(0.7071067811865476)))
    elif activation == "gelu_tanh":
        return 0.5 * x * (1 + tanh(Float32(0.7978845608028654) * (x + Float32(0.044715) * x * x * x)))
    else:
        comptime assert activation == "none", "no such activation"
        return x


def product_kernel[
    dtype: DType, result: DType, rows_at_once: Int, activation: StaticString, adds: Bool
](
    output: Pointer[Scalar[result], MutAnyOrigin],
    x: Pointer[Scalar[dtype], ImmutAnyOrigin],
    weight: Pointer[Scalar[dtype], ImmutAnyOrigin],
    bias: Pointer[Float32, ImmutAnyOrigin],
    add: Pointer[Float32, ImmutAnyOrigin],
    rows_: Int32,
    outputs_: Int32,
    inputs_: Int32,
):
    """Outputs `WARPS` * x of rows `rows_at_once` * y, for block (x, y)."""
    var rows, outputs, inputs = Int(rows_), Int(outputs_), Int(inputs_)
    var n = Int(block_idx.x) * WARPS + Int(thread_idx.x) // WARP
    var lane, first = Int(thread_idx.x) % WARP, Int(block_idx.y) * rows_at_once
    if n >= outputs:
        return  # the whole warp
    comptime ahead = 4 if rows_at_once == 1 else 2
    var sums = Array[Values, rows_at_once](fill=0)
    for begin in range(lane * WIDTH, inputs, ahead * WARP * WIDTH):
        var there = Array[SIMD[dtype, WIDTH], ahead](fill=0)
        comptime for i in range(ahead):
            there[i] = stored(weight.unsafe_offset(n * inputs + min(begin + i * WARP * WIDTH, inputs - WIDTH)))
        comptime for i in range(ahead):
            var k = min(begin + i * WARP * WIDTH, inputs - WIDTH)
            var w = there[i].cast[DType.float32]() if begin + i * WARP * WIDTH < inputs else Values(0)
            comptime for r in range(rows_at_once):
                # rows that are not there read the last one, and are not written
                sums[r] = loaded(x.unsafe_offset(min(first + r, rows - 1) * inputs + k)).fma(w, sums[r])
    comptime for r in range(rows_at_once):
        var sum = warp_sum(sums[r].reduce_add())
        if lane == r and first + r < rows:
            var place = (first + r) * outputs + n
            var y = activated[activation](sum + bias.unsafe_offset(n).unsafe_load())
            comptime if adds:
                y += add.unsafe_offset(place).unsafe_load()
            output.unsafe_offset(place).unsafe_store(y.cast[result]())


def product_on_cpu[
    dtype: DType, result: DType, activation: StaticString, adds: Bool
](
    output: Pointer[mut=True, Scalar[result], _],
    x: Pointer[Scalar[dtype], _],
    weight: Pointer[Scalar[dtype], _],
    bias: Pointer[Float32, _],
    add: Pointer[Float32, _],
    rows: Int,
    outputs: Int,
    inputs: Int,
):
    """The same with a thread for some outputs."""

    def some_outputs(begin: Int, end: Int) {imm}:
        for first in range(0, rows, MOST_ROWS):
            var last = rows - 1
            for n in range(begin, end):
                var sums = Array[Values, MOST_ROWS](fill=0)
                for k in range(0, inputs, WIDTH):
                    var w = weight.unsafe_offset(n * inputs + k).unsafe_load[width=WIDTH]().cast[DType.float32]()
                    comptime for r in range(MOST_ROWS):
                        var of_row = x.unsafe_offset(min(first + r, last) * inputs + k).unsafe_load[width=WIDTH]()
                        sums[r] = of_row.cast[DType.float32]().fma(w, sums[r])
                for row in range(first, min(first + MOST_ROWS, rows)):
                    var place = row * outputs + n
                    var sum = sums[row - first].reduce_add() + bias.unsafe_offset(n).unsafe_load()
                    var y = activated[activation](sum)
                    comptime if adds:
                        y += add.unsafe_offset(place).unsafe_load()
                    output.unsafe_offset(place).unsafe_store(y.cast[result]())

    share_range(outputs, outputs * inputs * size_of[dtype](), some_outputs)


def product[
    dtype: DType, result: DType, activation: StaticString, adds: Bool, target: StaticString
](
    output: OutputTensor[dtype=result, rank=3, ...],
    x: InputTensor[dtype=dtype, rank=3, ...],
    weight: InputTensor[dtype=dtype, rank=2, ...],
    bias: InputTensor[dtype=DType.float32, rank=1, ...],
    add: Pointer[Float32, ImmutAnyOrigin],
    ctx: DeviceContext,
) raises:
    """Where the target is. `add` is read if `adds`."""
    var rows, outputs, inputs = x.dim_size(0) * x.dim_size(1), output.dim_size(2), x.dim_size(2)
    if weight.dim_size(0) < outputs or weight.dim_size(1) != inputs or bias.dim_size(0) != outputs:
        raise Error("whisper2max.row_product: weight and bias are those of other inputs or of fewer outputs")
    if inputs % WIDTH != 0:
        raise Error("whisper2max.row_product: the inputs are no multiple of 8")
    comptime if target == "gpu":
        comptime for several in range(2):
            comptime rows_at_once = MOST_ROWS if several else 1
            if (rows > 1) == Bool(several):
                ctx.enqueue_function[product_kernel[dtype, result, rows_at_once, activation, adds]](
                    output.unsafe_ptr(),
                    x.unsafe_ptr(),
                    weight.unsafe_ptr(),
                    bias.unsafe_ptr(),
                    add,
                    Int32(rows),
                    Int32(outputs),
                    Int32(inputs),
                    grid_dim=(ceildiv(outputs, WARPS), ceildiv(rows, rows_at_once)),
                    block_dim=THREADS,
                )
    else:
        product_on_cpu[dtype, result, activation, adds](
            output.unsafe_ptr(), x.unsafe_ptr(), weight.unsafe_ptr(), bias.unsafe_ptr(), add, rows, outputs, inputs
        )


@extensibility.register("whisper2max.row_product")
struct RowProduct:
    """Shapes: x [rows, length, inputs]; weight [outputs or more, inputs]; bias [outputs]; output [rows, length, outputs]."""

    @staticmethod
    def execute[
        dtype: DType, result: DType, //, activation: StaticString, target: StaticString
    ](
        output: OutputTensor[dtype=result, rank=3, ...],
        x: InputTensor[dtype=dtype, rank=3, ...],
        weight: InputTensor[dtype=dtype, rank=2, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        product[dtype, result, activation, False, target](output, x, weight, bias, bias.unsafe_ptr(), ctx)


@extensibility.register("whisper2max.row_product_add")
struct RowProductAdd:
    """The same plus `add`, of the output's shape."""

    @staticmethod
    def execute[
        dtype: DType, //, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=dtype, rank=3, ...],
        weight: InputTensor[dtype=dtype, rank=2, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        add: InputTensor[dtype=DType.float32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        if add.dim_size(0) * add.dim_size(1) != x.dim_size(0) * x.dim_size(1) or add.dim_size(2) != output.dim_size(2):
            raise Error("whisper2max.row_product_add: what is added has another shape than the result")
        product[dtype, DType.float32, "none", True, target](output, x, weight, bias, add.unsafe_ptr(), ctx)
