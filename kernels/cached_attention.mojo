"""Causal self-attention of the decoder over a cache that is updated in place.

Every row of the batch is at a position of its own. Its new keys and values are written into the
cache first, then each new token attends to the prefix that ends with itself:

    cache[layer, row]   0 ........ positions[row] ..... + length ........ n_text_ctx
                        [ earlier tokens | new k or v   | not read              ]
    token t sees        [===========================t]

A thread takes heads of a row, so nothing is shared between threads and nothing is copied.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu.host import DeviceContext

from .attend import attend
from .product import untracked
from .share import share_range


@fieldwise_init
struct Cache(Copyable, TrivialRegisterPassable):
    """Keys and values of one layer, [batch, context, state], and where the new tokens of every row go."""

    var keys: Pointer[Float32, MutUntrackedOrigin]
    var values: Pointer[Float32, MutUntrackedOrigin]
    var positions: Pointer[Int64, ImmUntrackedOrigin]
    var shared_position: Bool
    var length: Int
    var context: Int
    var state: Int

    def position(self, row: Int) -> Int:
        """Of the first new token of a row."""
        return Int(self.positions.unsafe_offset(0 if self.shared_position else row).unsafe_load())


def cache_of(
    layer: Int,
    positions: InputTensor[dtype=DType.int64, rank=1, ...],
    cache_k: MutableInputTensor[dtype=DType.float32, rank=4, ...],
    cache_v: MutableInputTensor[dtype=DType.float32, rank=4, ...],
    batch: Int,
    length: Int,
    state: Int,
) raises -> Cache:
    """The caches of a layer for `length` new tokens in `batch` rows; raise unless they have room there."""
    var context = cache_k.dim_size(2)
    if not 0 <= layer < cache_k.dim_size(0):
        raise Error("cached_attention: the caches hold fewer layers")
    if cache_k.dim_size(1) != batch or cache_v.dim_size(1) != batch:
        raise Error("cached_attention: the caches hold another number of rows than the query")
    var shared = positions.dim_size(0) == 1
    if not shared and positions.dim_size(0) != batch:
        raise Error("cached_attention: positions are given for another number of rows")
    for row in range(positions.dim_size(0)):
        var position = Int(positions[row])
        if position < 0 or position + length > context:
            raise Error("cached_attention: a position lies outside the text context")
    var first = layer * batch * context * state
    return Cache(
        cache_k.unsafe_ptr().unsafe_offset(first).unsafe_origin_cast[MutUntrackedOrigin](),
        cache_v.unsafe_ptr().unsafe_offset(first).unsafe_origin_cast[MutUntrackedOrigin](),
        untracked(positions.unsafe_ptr()),
        shared,
        length,
        context,
        state,
    )


def attend_to_cache[
    head_dim: Int
](
    output: Pointer[mut=True, Float32, _],
    query: Pointer[Float32, _],
    key: Pointer[Float32, _],
    value: Pointer[Float32, _],
    cache: Cache,
    head_of_row: Int,
):
    """Store the new keys and values of one head of one row, numbered [batch, heads], and attend to its prefix."""
    var row, head = divmod(head_of_row, cache.state // head_dim)
    var position = cache.position(row)
    var prefix = row * cache.context * cache.state + head * head_dim
    for t in range(cache.length):
        var new = (row * cache.length + t) * cache.state + head * head_dim
        var cached = prefix + (position + t) * cache.state
        for i in range(head_dim):
            cache.keys.unsafe_offset(cached + i).unsafe_store(key.unsafe_offset(new + i).unsafe_load())
            cache.values.unsafe_offset(cached + i).unsafe_store(value.unsafe_offset(new + i).unsafe_load())
    var scores = List[Float32](unsafe_uninit_length=position + cache.length)
    for t in range(cache.length):
        var new = (row * cache.length + t) * cache.state + head * head_dim
        attend[head_dim](
            output.unsafe_offset(new),
            query.unsafe_offset(new),
            cache.keys.unsafe_offset(prefix),
            cache.values.unsafe_offset(prefix),
            scores.unsafe_ptr(),
            position + t + 1,
            cache.state,
        )


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
        var batch, length, state = query.dim_size(0), query.dim_size(1), query.dim_size(2)
        var cache = cache_of(layer, positions, cache_k, cache_v, batch, length, state)
        var output_data, query_data = output.unsafe_ptr(), query.unsafe_ptr()
        var key_data, value_data = key.unsafe_ptr(), value.unsafe_ptr()
        var read = 0
        for row in range(batch):
            read += length * (cache.position(row) + length) * state * 8
        var heads = batch * (state // head_dim)

        def some_heads(first: Int, end: Int) {imm}:
            for head in range(first, end):
                attend_to_cache[head_dim](output_data, query_data, key_data, value_data, cache, head)

        share_range(heads, read, some_heads)
