"""Linear layers: y = activation(x @ w.T + bias), or x @ w.T + bias plus a residual.

The dtype of the weight chooses the format in which both operands are multiplied; activations arrive and leave as
float32. An int8 weight comes with the scale of every output and, because the instruction wants unsigned activations,
with its sum; other weights come with a scale and a sum that are not read. See `product` for how the work is cut and
`pack` for how rows are rounded.

Shapes, of both: x [batch, length, n_in]; weight [n_out / 32 rounded up, words, 32, values of a word]; scales, sums,
bias [n_out]; residual and output [batch, length, n_out]. `activation` is "none", "gelu" or "gelu_tanh". CPU only.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .product import activation_named, adding, contiguous, matrix, plain, product


@extensibility.register("whisper2max.linear")
struct Linear:
    """A Linear and what follows it."""

    @staticmethod
    def execute[
        format: DType, activation: StaticString, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        weight: InputTensor[dtype=format, rank=4, ...],
        scales: InputTensor[dtype=DType.float32, rank=1, ...],
        sums: InputTensor[dtype=DType.int32, rank=1, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.linear runs on the CPU only"
        var rows, n_in = x.dim_size(0) * x.dim_size(1), x.dim_size(2)
        product[format](
            output.unsafe_ptr(),
            contiguous(x.unsafe_ptr(), rows, n_in),
            matrix[format](weight, scales, sums, bias, n_in),
            plain(activation_named[activation](), x.unsafe_ptr()),
        )


@extensibility.register("whisper2max.linear_add")
struct LinearAdd:
    """A Linear and a residual."""

    @staticmethod
    def execute[
        format: DType, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        weight: InputTensor[dtype=format, rank=4, ...],
        scales: InputTensor[dtype=DType.float32, rank=1, ...],
        sums: InputTensor[dtype=DType.int32, rank=1, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        residual: InputTensor[dtype=DType.float32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.linear_add runs on the CPU only"
        var rows, n_in = x.dim_size(0) * x.dim_size(1), x.dim_size(2)
        product[format](
            output.unsafe_ptr(),
            contiguous(x.unsafe_ptr(), rows, n_in),
            matrix[format](weight, scales, sums, bias, n_in),
            adding(residual.unsafe_ptr()),
        )
