"""Causal self-attention of the decoder over caches that are updated in place.

Keys and values of every position lie in slots, and every row says for each of its positions which slot holds it. Rows
that began alike share what they have in common, and a row goes on from another one when its entries are copied:

    slots[row]          0 ........ positions[row] ..... + length ........ n_text_ctx
                        [ earlier tokens | new tokens   | not read              ]
    cache[slots[row, p], layer, p]  holds the key or value of position p
    token t sees        [===========================t]

New keys and values are written first, into the slots that the row names for their positions. Two rows may not name the
same slot there. A thread takes heads of a row, so nothing is shared between threads and nothing is copied.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu.host import DeviceContext

from .attend import attend
from .product import untracked
from .share import share_range
from .tile import LANES


@fieldwise_init
struct Cache(Copyable, TrivialRegisterPassable):
    """Keys and values of one layer in all slots, and where the tokens of every row are."""

    var keys: Pointer[Float32, MutUntrackedOrigin]
    """Position 0 of slot 0; positions are `state` floats apart."""
    var values: Pointer[Float32, MutUntrackedOrigin]
    var slot_stride: Int
    """Floats from a slot to the next."""
    var positions: Pointer[Int64, ImmUntrackedOrigin]
    """Of the first new token of every row."""
    var slots: Pointer[Int32, ImmUntrackedOrigin]
    """Of every position of every row, [rows, context]."""
    var length: Int
    """New tokens of a row."""
    var context: Int
    var state: Int

    def position(self, row: Int) -> Int:
        """Of the first new token of a row."""
        return Int(self.positions.unsafe_offset(row).unsafe_load())

    def slots_of(self, row: Int) -> Pointer[Int32, ImmUntrackedOrigin]:
        """Of the positions of a row."""
        return self.slots.unsafe_offset(row * self.context)

    def place(self, slot: Int32, position: Int) -> Int:
        """Floats from `keys` or `values` to those of a position."""
        return Int(slot) * self.slot_stride + position * self.state


def require_slots(slots: Pointer[Int32, _], positions: Int, count: Int) raises:
    """Raise unless all of these positions lie in one of `count` slots."""
    var p = 0
    var least, most = slots.unsafe_load(), slots.unsafe_load()
    while p + LANES <= positions:
        var some = slots.unsafe_offset(p).unsafe_load[width=LANES]()
        least, most = min(least, some.reduce_min()), max(most, some.reduce_max())
        p += LANES
    while p < positions:
        var slot = slots.unsafe_offset(p).unsafe_load()
        least, most = min(least, slot), max(most, slot)
        p += 1
    if least < 0 or Int(most) >= count:
        raise Error("cached_attention: a row names a slot that the caches do not hold")


def cache_of(
    layer: Int,
    positions: InputTensor[dtype=DType.int64, rank=1, ...],
    slots: InputTensor[dtype=DType.int32, rank=2, ...],
    cache_keys: MutableInputTensor[dtype=DType.float32, rank=4, ...],
    cache_values: MutableInputTensor[dtype=DType.float32, rank=4, ...],
    rows: Int,
    length: Int,
    state: Int,
) raises -> Cache:
    """The caches of a layer for `length` new tokens in `rows` rows; raise unless they have room there."""
    var count, layers, context = cache_keys.dim_size(0), cache_keys.dim_size(1), cache_keys.dim_size(2)
    if not 0 <= layer < layers:
        raise Error("cached_attention: the caches hold fewer layers")
    var alike = cache_values.dim_size(0) == count and cache_values.dim_size(1) == layers
    if not alike or cache_values.dim_size(2) != context:
        raise Error("cached_attention: the caches of keys and values have other shapes")
    if cache_keys.dim_size(3) != state or cache_values.dim_size(3) != state:
        raise Error("cached_attention: the caches are those of another width")
    if positions.dim_size(0) != rows or slots.dim_size(0) != rows or slots.dim_size(1) != context:
        raise Error("cached_attention: positions or slots are given for another number of rows or positions")
    for row in range(rows):
        var position = Int(positions[row])
        if position < 0 or position + length > context:
            raise Error("cached_attention: a position lies outside the text context")
        require_slots(untracked(slots.unsafe_ptr()).unsafe_offset(row * context), position + length, count)
    var first = layer * context * state
    return Cache(
        cache_keys.unsafe_ptr().unsafe_offset(first).unsafe_origin_cast[MutUntrackedOrigin](),
        cache_values.unsafe_ptr().unsafe_offset(first).unsafe_origin_cast[MutUntrackedOrigin](),
        layers * context * state,
        untracked(positions.unsafe_ptr()),
        untracked(slots.unsafe_ptr()),
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
    """Store the new keys and values of one head of one row, numbered [rows, heads], and attend to what came before."""
    var row, head = divmod(head_of_row, cache.state // head_dim)
    var position = cache.position(row)
    var slots = cache.slots_of(row)
    var column = head * head_dim
    for t in range(cache.length):
        var new = (row * cache.length + t) * cache.state + column
        var cached = cache.place(slots.unsafe_offset(position + t).unsafe_load(), position + t) + column
        for i in range(head_dim):
            cache.keys.unsafe_offset(cached + i).unsafe_store(key.unsafe_offset(new + i).unsafe_load())
            cache.values.unsafe_offset(cached + i).unsafe_store(value.unsafe_offset(new + i).unsafe_load())
    var scores = List[Float32](unsafe_uninit_length=position + cache.length)
    for t in range(cache.length):
        var new = (row * cache.length + t) * cache.state + column
        attend[head_dim](
            output.unsafe_offset(new),
            query.unsafe_offset(new),
            cache.keys.unsafe_offset(column),
            cache.values.unsafe_offset(column),
            scores.unsafe_ptr(),
            slots,
            position + t + 1,
            cache.state,
            cache.slot_stride,
        )


@extensibility.register("whisper2max.cached_attention")
struct CachedAttention:
    """Shapes: query, key, value and output [rows, length, state]; layer [1]; positions [rows]; slots [rows,
    n_text_ctx]; caches [slots, layers, n_text_ctx, state]. CPU only."""

    @staticmethod
    def execute[
        head_dim: Int, target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        key: InputTensor[dtype=DType.float32, rank=3, ...],
        value: InputTensor[dtype=DType.float32, rank=3, ...],
        layer: InputTensor[dtype=DType.int64, rank=1, ...],
        positions: InputTensor[dtype=DType.int64, rank=1, ...],
        slots: InputTensor[dtype=DType.int32, rank=2, ...],
        cache_keys: MutableInputTensor[dtype=DType.float32, rank=4, ...],
        cache_values: MutableInputTensor[dtype=DType.float32, rank=4, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target == "cpu", "whisper2max.cached_attention runs on the CPU only"
        var rows, length, state = query.dim_size(0), query.dim_size(1), query.dim_size(2)
        var cache = cache_of(Int(layer[0]), positions, slots, cache_keys, cache_values, rows, length, state)
        var output_data, query_data = output.unsafe_ptr(), query.unsafe_ptr()
        var key_data, value_data = key.unsafe_ptr(), value.unsafe_ptr()
        var read = 0
        for row in range(rows):
            read += length * (cache.position(row) + length) * state * 8
        var heads = rows * (state // head_dim)

        def some_heads(first: Int, end: Int) {imm}:
            for head in range(first, end):
                attend_to_cache[head_dim](output_data, query_data, key_data, value_data, cache, head)

        share_range(heads, read, some_heads)
