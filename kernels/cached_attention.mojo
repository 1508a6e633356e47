"""Causal self-attention of the decoder over a cache that is updated in place.

Every row of the batch is at a position of its own. Its new keys and values are written into the
cache first, then each new token attends to the prefix that ends with itself:

    cache[layer, row]   0 ........ positions[row] ..... + length ........ n_text_ctx
                        [ earlier tokens | new k or v   | not read              ]
    token t sees        [===========================t]

A task takes heads of a row, so nothing is shared between tasks and nothing is copied.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext

from .attend import attend
from .tasks import tasks_worth


@extensibility.register("whisper2max.cached_attention")
struct CachedAttention:
    """Shapes: query, key, value and output [batch, length, state]; positions [batch], or
    [1] for all rows alike; caches [layers, batch, n_text_ctx, state]. CPU only."""

    @staticmethod
    def execute[
        layer: Int, head_dim: Int, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        key: InputTensor[dtype=DType.float32, rank=3, ...],
        value: InputTensor[dtype=DType.float32, rank=3, ...],
        positions: InputTensor[dtype=DType.int64, rank=1, ...],
        cache_k: MutableInputTensor[dtype=DType.float32, rank=4, ...],
        cache_v: MutableInputTensor[dtype=DType.float32, rank=4, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.cached_attention runs on the CPU only"
        var batch = query.dim_size(0)
        var length = query.dim_size(1)
        var state = query.dim_size(2)
        var context = cache_k.dim_size(2)
        var heads = state // head_dim
        if cache_k.dim_size(1) != batch or cache_v.dim_size(1) != batch:
            raise Error("cached_attention: the caches hold another number of rows than the query")
        var shared = positions.dim_size(0) == 1
        if not shared and positions.dim_size(0) != batch:
            raise Error("cached_attention: positions are given for another number of rows")
        for row in range(positions.dim_size(0)):
            var position = Int(positions[row])
            if position < 0 or position + length > context:
                raise Error("cached_attention: a position lies outside the text context")
        var output_data = output.unsafe_ptr()
        var query_data = query.unsafe_ptr()
        var key_data = key.unsafe_ptr()
        var value_data = value.unsafe_ptr()
        var keys = cache_k.unsafe_ptr()
        var values = cache_v.unsafe_ptr()

        def one_head(place: Int) {imm}:
            var row = place // heads
            var head = (place % heads) * head_dim
            var position = Int(positions[0 if shared else row])
            var prefix = (layer * batch + row) * context * state + head
            for t in range(length):
                var new = (row * length + t) * state + head
                var cached = prefix + (position + t) * state
                for i in range(head_dim):
                    keys.unsafe_offset(cached + i).unsafe_store(key_data.unsafe_offset(new + i).unsafe_load())
                    values.unsafe_offset(cached + i).unsafe_store(value_data.unsafe_offset(new + i).unsafe_load())
            var scores = List[Float32](length=position + length, fill=0)
            for t in range(length):
                var new = (row * length + t) * state + head
                attend[head_dim](
                    output_data.unsafe_offset(new),
                    query_data.unsafe_offset(new),
                    keys.unsafe_offset(prefix),
                    values.unsafe_offset(prefix),
                    scores.unsafe_ptr(),
                    position + t + 1,
                    state,
                )

        var read = 0
        for row in range(batch):
            read += length * (Int(positions[0 if shared else row]) + length) * state * 8
        var tasks = tasks_worth(read, batch * heads)

        def some_heads(task: Int) {imm}:
            for place in range(task * batch * heads // tasks, (task + 1) * batch * heads // tasks):
                one_head(place)

        sync_parallelize(some_heads, tasks)
