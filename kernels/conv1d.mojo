"""Convolution over time as a matrix product over one padded copy of the input.

With the channels of a frame side by side, the inputs of one output frame are one stretch of memory, and those of the
next begin `stride` frames later. So the rows of the product overlap, and no row is gathered:

    copy     [ zeros | frame 0 | frame 1 | frame 2 | frame 3 | .. | zeros ]
    row 0    [---------- kernel 3 -------]
    row 1            [---------- kernel 3 ---------]                         stride 1

The weight is packed from [n_out, kernel * n_in].
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .product import Matrix, Rows, activation_named, plain, product, untracked
from .share import share_range
from .tile import PANEL, group


@extensibility.register("whisper2max.conv1d")
struct Conv1d:
    """Shapes: x [batch, frames, n_in], or [batch, n_in, frames] if `channels_first`; weight as of whisper2max.linear;
    bias [n_out]; output [batch, (frames + 2 * padding - kernel) / stride + 1, n_out]. `activation` as of
    whisper2max.linear. CPU only."""

    @staticmethod
    def execute[
        format: DType,
        kernel: Int,
        stride: Int,
        padding: Int,
        channels_first: Bool,
        activation: StaticString,
        target: StaticString,
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        weight: InputTensor[dtype=format, rank=4, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.conv1d runs on the CPU only"
        var batch, frames, n_in = x.dim_size(0), x.dim_size(1), x.dim_size(2)
        comptime if channels_first:
            frames, n_in = n_in, frames
        var padded_frames = frames + 2 * padding
        var frames_out, n_out = output.dim_size(1), output.dim_size(2)
        if frames_out != (padded_frames - kernel) // stride + 1 or output.dim_size(0) != batch:
            raise Error("whisper2max.conv1d: the output has another number of frames than the input gives")
        if weight.dim_size(1) * group[format]() != kernel * n_in or weight.dim_size(0) != (n_out + PANEL - 1) // PANEL:
            raise Error("whisper2max.conv1d: the weight is packed for another number of inputs or outputs")
        var padded = List[Float32](unsafe_uninit_length=batch * padded_frames * n_in)
        var copy, x_data = padded.unsafe_ptr(), x.unsafe_ptr()

        def some_frames(first: Int, end: Int) {imm}:
            for place in range(first, end):
                var b, t = divmod(place, padded_frames)
                t -= padding
                var frame = copy.unsafe_offset(place * n_in)
                if t < 0 or t >= frames:
                    for c in range(n_in):
                        frame.unsafe_offset(c).unsafe_store(0)
                    continue
                for c in range(n_in):
                    var from_ = (b * n_in + c) * frames + t if channels_first else (b * frames + t) * n_in + c
                    frame.unsafe_offset(c).unsafe_store(x_data.unsafe_offset(from_).unsafe_load())

        share_range(batch * padded_frames, batch * padded_frames * n_in * 8, some_frames)
        var panels, offset = untracked(weight.unsafe_ptr().unsafe_bitcast[Int32]()), untracked(bias.unsafe_ptr())
        product[format](
            output.unsafe_ptr(),
            Rows(untracked(copy), batch * frames_out, frames_out, padded_frames * n_in, stride * n_in),
            Matrix[format](panels, offset, panels, offset, n_out, weight.dim_size(1)),
            plain(activation_named[activation](), x_data),
        )
        _ = padded^
