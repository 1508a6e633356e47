"""Layer normalisation of float32 rows, for products that take another dtype; on a CPU or a device.

On a device a block of threads has a row: each keeps every 128th value in registers, and sums go through the warps.

    (x - mean) / sqrt(variance + eps) * weight + bias
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import sqrt

from .block import THREADS, block_sum
from .share import share_range


comptime MOST_VALUES = 10
"""Of a row in one thread: for 1280, the widest Whisper."""


def norm_kernel[
    dtype: DType
](
    output: Pointer[Scalar[dtype], MutAnyOrigin],
    x: Pointer[Float32, ImmutAnyOrigin],
    weight: Pointer[Float32, ImmutAnyOrigin],
    bias: Pointer[Float32, ImmutAnyOrigin],
    width_: Int32,
    eps: Float32,
):
    """One row for each block of `THREADS`."""
    var width, row, first = Int(width_), Int(block_idx.x) * Int(width_), Int(thread_idx.x)
    var values = Array[Float32, MOST_VALUES](fill=0)
    var weights = Array[Float32, MOST_VALUES](fill=0)
    var biases = Array[Float32, MOST_VALUES](fill=0)
    comptime for n in range(MOST_VALUES):
        # beyond the row the last value is read again, and counts for nothing
        var i = min(first + n * THREADS, width - 1)
        values[n] = x.unsafe_offset(row + i).unsafe_load()
        weights[n] = weight.unsafe_offset(i).unsafe_load()
        biases[n] = bias.unsafe_offset(i).unsafe_load()
    var sum = Float32(0)
    comptime for n in range(MOST_VALUES):
        sum += values[n] if first + n * THREADS < width else 0
    var mean = block_sum(sum) / Float32(width)
    var squares = Float32(0)
    comptime for n in range(MOST_VALUES):
        values[n] -= mean
        squares += values[n] * values[n] if first + n * THREADS < width else 0
    var scale = 1 / sqrt(block_sum(squares) / Float32(width) + eps)
    comptime for n in range(MOST_VALUES):
        if first + n * THREADS < width:
            var y = (values[n] * scale).fma(weights[n], biases[n])
            output.unsafe_offset(row + first + n * THREADS).unsafe_store(y.cast[dtype]())


def norm_on_cpu[
    dtype: DType
](
    output: Pointer[mut=True, Scalar[dtype], _],
    x: Pointer[Float32, _],
    weight: Pointer[Float32, _],
    bias: Pointer[Float32, _],
    width: Int,
    eps: Float32,
):
    """One row."""
    var sum = Float64(0)
    for i in range(width):
        sum += x.unsafe_offset(i).unsafe_load().cast[DType.float64]()
    var mean = sum / Float64(width)
    var squares = Float64(0)
    for i in range(width):
        var distance = x.unsafe_offset(i).unsafe_load().cast[DType.float64]() - mean
        squares += distance * distance
    var scale = 1 / sqrt(squares / Float64(width) + eps.cast[DType.float64]())
    for i in range(width):
        var y = ((x.unsafe_offset(i).unsafe_load().cast[DType.float64]() - mean) * scale).cast[DType.float32]()
        y = y.fma(weight.unsafe_offset(i).unsafe_load(), bias.unsafe_offset(i).unsafe_load())
        output.unsafe_offset(i).unsafe_store(y.cast[dtype]())


@extensibility.register("whisper2max.row_norm")
struct RowNorm:
    """Shapes: x and output [batch, length, state]; weight and bias [state]."""

    @staticmethod
    def execute[
        dtype: DType, //, eps: Float64, target: StaticString
    ](
        output: OutputTensor[dtype=dtype, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        weight: InputTensor[dtype=DType.float32, rank=1, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var rows, width = x.dim_size(0) * x.dim_size(1), x.dim_size(2)
        comptime epsilon = eps.cast[DType.float32]()
        if width > MOST_VALUES * THREADS:
            raise Error("whisper2max.row_norm: a row has ", width, " values, and ", MOST_VALUES * THREADS, " at most can be")
        comptime if target == "gpu":
            ctx.enqueue_function[norm_kernel[dtype]](
                output.unsafe_ptr(),
                x.unsafe_ptr(),
                weight.unsafe_ptr(),
                bias.unsafe_ptr(),
                Int32(width),
                epsilon,
                grid_dim=rows,
                block_dim=THREADS,
            )
        else:
            var output_data, x_data = output.unsafe_ptr(), x.unsafe_ptr()
            var weight_data, bias_data = weight.unsafe_ptr(), bias.unsafe_ptr()

            def some_rows(first: Int, end: Int) {imm}:
                for row in range(first, end):
                    var place = row * width
                    norm_on_cpu(
                        output_data.unsafe_offset(place),
                        x_data.unsafe_offset(place),
                        weight_data,
                        bias_data,
                        width,
                        epsilon,
                    )

            share_range(rows, rows * width * 8, some_rows)
