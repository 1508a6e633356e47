"""Linear layers: y = activation(x @ w.T + bias), and the same plus a residual.

The dtype of the weight chooses the format in which both operands are multiplied; activations arrive and leave as
float32. An int8 weight comes with the scale of every column and, because the instruction wants unsigned activations,
with its sum. See `product` for how the work is cut and `pack` for how rows are rounded.

Shapes, of all four: x [batch, length, n_in]; weight [n_out / 32 rounded up, words, 32, values of a word];
scales, sums, bias [n_out]; residual and output [batch, length, n_out]. `activation` is "none", "gelu" or "gelu_tanh"
and comes before the residual. CPU only.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .product import activation_named, product, require_packed


@extensibility.register("whisper2max.linear")
struct Linear:
    """Weights of float32 or bfloat16."""

    @staticmethod
    def execute[
        format: DType, activation: StaticString, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        weight: InputTensor[dtype=format, rank=4, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.linear runs on the CPU only"
        var rows, n_in, n_out = x.dim_size(0) * x.dim_size(1), x.dim_size(2), output.dim_size(2)
        require_packed[format](n_in, n_out, weight.dim_size(0), weight.dim_size(1))
        var panels = weight.unsafe_ptr().unsafe_bitcast[Int32]()
        product[format](
            output.unsafe_ptr(),
            x.unsafe_ptr(),
            panels,
            bias.unsafe_ptr(),
            panels,
            bias.unsafe_ptr(),
            x.unsafe_ptr(),
            activation_named[activation](),
            False,
            rows,
            rows,
            0,
            n_in,
            n_out,
            weight.dim_size(1),
        )


@extensibility.register("whisper2max.linear_add")
struct LinearAdd:
    """Weights of float32 or bfloat16, with a residual."""

    @staticmethod
    def execute[
        format: DType, activation: StaticString, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        weight: InputTensor[dtype=format, rank=4, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        residual: InputTensor[dtype=DType.float32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.linear_add runs on the CPU only"
        var rows, n_in, n_out = x.dim_size(0) * x.dim_size(1), x.dim_size(2), output.dim_size(2)
        require_packed[format](n_in, n_out, weight.dim_size(0), weight.dim_size(1))
        var panels = weight.unsafe_ptr().unsafe_bitcast[Int32]()
        product[format](
            output.unsafe_ptr(),
            x.unsafe_ptr(),
            panels,
            bias.unsafe_ptr(),
            panels,
            bias.unsafe_ptr(),
            residual.unsafe_ptr(),
            activation_named[activation](),
            True,
            rows,
            rows,
            0,
            n_in,
            n_out,
            weight.dim_size(1),
        )


@extensibility.register("whisper2max.linear_int8")
struct LinearInt8:
    """Weights of int8."""

    @staticmethod
    def execute[
        activation: StaticString, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        weight: InputTensor[dtype=DType.int8, rank=4, ...],
        scales: InputTensor[dtype=DType.float32, rank=1, ...],
        sums: InputTensor[dtype=DType.int32, rank=1, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.linear_int8 runs on the CPU only"
        var rows, n_in, n_out = x.dim_size(0) * x.dim_size(1), x.dim_size(2), output.dim_size(2)
        require_packed[DType.int8](n_in, n_out, weight.dim_size(0), weight.dim_size(1))
        var panels = weight.unsafe_ptr().unsafe_bitcast[Int32]()
        product[DType.int8](
            output.unsafe_ptr(),
            x.unsafe_ptr(),
            panels,
            scales.unsafe_ptr(),
            sums.unsafe_ptr(),
            bias.unsafe_ptr(),
            x.unsafe_ptr(),
            activation_named[activation](),
            False,
            rows,
            rows,
            0,
            n_in,
            n_out,
            weight.dim_size(1),
        )


@extensibility.register("whisper2max.linear_int8_add")
struct LinearInt8Add:
    """Weights of int8, with a residual."""

    @staticmethod
    def execute[
        activation: StaticString, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        weight: InputTensor[dtype=DType.int8, rank=4, ...],
        scales: InputTensor[dtype=DType.float32, rank=1, ...],
        sums: InputTensor[dtype=DType.int32, rank=1, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        residual: InputTensor[dtype=DType.float32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.linear_int8_add runs on the CPU only"
        var rows, n_in, n_out = x.dim_size(0) * x.dim_size(1), x.dim_size(2), output.dim_size(2)
        require_packed[DType.int8](n_in, n_out, weight.dim_size(0), weight.dim_size(1))
        var panels = weight.unsafe_ptr().unsafe_bitcast[Int32]()
        product[DType.int8](
            output.unsafe_ptr(),
            x.unsafe_ptr(),
            panels,
            scales.unsafe_ptr(),
            sums.unsafe_ptr(),
            bias.unsafe_ptr(),
            residual.unsafe_ptr(),
            activation_named[activation](),
            True,
            rows,
            rows,
            0,
            n_in,
            n_out,
            weight.dim_size(1),
        )
