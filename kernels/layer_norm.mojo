"""Layer normalisation over the last axis: (x - mean) / sqrt(variance + eps) * weight + bias.

A row is read three times while it is in the first-level cache: for its mean, for the squares of its distances from
the mean (not for the mean of its squares, which loses digits in channels with a large offset), and to be written.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import sqrt

from .share import share_range
from .tile import Floats, LANES


@always_inline
def normalise_row(
    output: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    weight: Pointer[Float32, _],
    bias: Pointer[Float32, _],
    width: Int,
    eps: Float32,
):
    """One row of `width` floats, a multiple of 16."""
    var sums = Floats(0)
    for i in range(0, width, LANES):
        sums += x.unsafe_offset(i).unsafe_load[width=LANES]()
    var mean = sums.reduce_add() / Float32(width)
    var squares = Floats(0)
    for i in range(0, width, LANES):
        var distance = x.unsafe_offset(i).unsafe_load[width=LANES]() - mean
        squares = distance.fma(distance, squares)
    var scale = 1 / sqrt(squares.reduce_add() / Float32(width) + eps)
    for i in range(0, width, LANES):
        var y = (x.unsafe_offset(i).unsafe_load[width=LANES]() - mean) * scale
        output.unsafe_offset(i).unsafe_store(
            y.fma(weight.unsafe_offset(i).unsafe_load[width=LANES](), bias.unsafe_offset(i).unsafe_load[width=LANES]())
        )


@extensibility.register("whisper2max.layer_norm")
struct LayerNorm:
    """Shapes: x and output [batch, length, state]; weight and bias [state], a multiple of 16; eps [1]. CPU only."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        weight: InputTensor[dtype=DType.float32, rank=1, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        eps: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.layer_norm runs on the CPU only"
        var rows, width = x.dim_size(0) * x.dim_size(1), x.dim_size(2)
        if width % LANES != 0:
            raise Error("whisper2max.layer_norm: the width is no multiple of 16")
        var epsilon = eps[0]
        var output_data, x_data = output.unsafe_ptr(), x.unsafe_ptr()
        var weight_data, bias_data = weight.unsafe_ptr(), bias.unsafe_ptr()

        def some_rows(first: Int, end: Int) {imm}:
            for row in range(first, end):
                normalise_row(
                    output_data.unsafe_offset(row * width),
                    x_data.unsafe_offset(row * width),
                    weight_data,
                    bias_data,
                    width,
                    epsilon,
                )

        share_range(rows, rows * width * 8, some_rows)
