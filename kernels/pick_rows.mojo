"""Chosen rows of every sequence: output[b, i] = x[b, picked[b, i]], for logits of few positions of a long prompt."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext


@extensibility.register("whisper2max.pick_rows")
struct PickRows:
    """Shapes: x [batch, length, state]; picked [batch, n]; output [batch, n, state]. CPU only."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=3, ...],
        picked: InputTensor[dtype=DType.int64, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.pick_rows runs on the CPU only"
        var batch, length, width, count = x.dim_size(0), x.dim_size(1), x.dim_size(2), picked.dim_size(1)
        if picked.dim_size(0) != batch:
            raise Error("whisper2max.pick_rows: rows are picked for another batch")
        for b in range(batch):
            for i in range(count):
                var t = Int(picked[b, i])
                if not 0 <= t < length:
                    raise Error("whisper2max.pick_rows: a picked row lies outside of the sequence")
                for c in range(width):
                    output.unsafe_ptr().unsafe_offset((b * count + i) * width + c).unsafe_store(
                        x.unsafe_ptr().unsafe_offset((b * length + t) * width + c).unsafe_load()
                    )
