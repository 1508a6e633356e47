"""Cross-attention of decoder tokens to the audio states of their own row.

    query [batch, length, state]      key, value [batch, frames, state], as their Linears gave them

One task is one head of one row; keys and values are read in place with a stride of `state`.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext

from .attend import attend


@extensibility.register("whisper2max.cross_attention")
struct CrossAttention:
    """Output has the shape of the query. CPU only."""

    @staticmethod
    def execute[
        head_dim: Int, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        key: InputTensor[dtype=DType.float32, rank=3, ...],
        value: InputTensor[dtype=DType.float32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.cross_attention runs on the CPU only"
        var batch = query.dim_size(0)
        var length = query.dim_size(1)
        var state = query.dim_size(2)
        var frames = key.dim_size(1)
        var heads = state // head_dim
        var output_data = output.unsafe_ptr()
        var query_data = query.unsafe_ptr()
        var key_data = key.unsafe_ptr()
        var value_data = value.unsafe_ptr()

        def one_head(task: Int) {imm}:
            var row = task // heads
            var head = (task % heads) * head_dim
            var first = row * frames * state + head
            var scores = List[Float32](length=frames, fill=0)
            for t in range(length):
                var token = (row * length + t) * state + head
                attend[head_dim](
                    output_data.unsafe_offset(token),
                    query_data.unsafe_offset(token),
                    key_data.unsafe_offset(first),
                    value_data.unsafe_offset(first),
                    scores.unsafe_ptr(),
                    frames,
                    state,
                )

        sync_parallelize(one_head, batch * heads)
