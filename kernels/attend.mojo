"""One query against many keys: the inner loop that decoder attention is made of.

Keys and values are rows of `stride` floats, of which one head owns `head_dim`. Every row says in which slot it lies, and
those that follow each other in one slot are read as if there was no other:

           slot 0, rows of stride      slot 1
    p = 0  [ h0 | h1 | h2 | .. ] <-   [ .. ]    slots[0] = 0    scores[p] = query . keys[slots[p]][p]
    1      [ h0 | h1 | h2 | .. ] <-   [ .. ]    slots[1] = 0              first pass, and the maximum
    2      [ ..                ]   -> [ h0 .. ] slots[2] = 1    output = sum(exp(scores[p] - max) * values[slots[p]][p])
    ..                                                                   / sum(exp(..)), second pass

The query and the accumulator of one head stay in registers (64 floats are eight AVX2 or four
AVX-512 vectors), so both passes run at the speed at which keys and values arrive from memory.
"""

from std.math import exp
from std.sys import simd_width_of

from .tile import LANES


@always_inline
def end_of_run(slots: Pointer[Int32, _], first: Int, rows: Int) -> Int:
    """One past the last of the rows from `first` on that lie in the same slot."""
    var slot = slots.unsafe_offset(first).unsafe_load()
    var end = first + 1
    while end + LANES <= rows and slots.unsafe_offset(end).unsafe_load[width=LANES]().eq(slot).reduce_and():
        end += LANES
    while end < rows and slots.unsafe_offset(end).unsafe_load() == slot:
        end += 1
    return end


def attend[
    head_dim: Int
](
    output: Pointer[mut=True, Float32, _],
    query: Pointer[Float32, _],
    keys: Pointer[Float32, _],
    values: Pointer[Float32, _],
    scores: Pointer[mut=True, Float32, _],
    slots: Pointer[Int32, _],
    rows: Int,
    stride: Int,
    slot_stride: Int,
):
    """Write softmax(query . keys / sqrt(head_dim)) @ values for one head.

    Args:
        output: `head_dim` floats.
        query: `head_dim` floats, unscaled.
        keys: The head's first float of row 0 in slot 0.
        values: The same of the values.
        scores: Scratch of `rows` floats.
        slots: Where each row lies.
        rows: Keys to attend to, at least one.
        stride: Floats between two rows.
        slot_stride: Floats between two slots.
    """
    comptime width = min(simd_width_of[DType.float32](), head_dim)
    comptime chunks = head_dim // width
    comptime scale = Float32(Float64(head_dim) ** -0.5)
    comptime assert chunks * width == head_dim, "head_dim must be a power of two, or a multiple of the SIMD width"

    var q = Array[SIMD[DType.float32, width], chunks](fill=0)
    comptime for c in range(chunks):
        q[c] = query.unsafe_offset(c * width).unsafe_load[width=width]() * scale

    var largest = Float32.MIN
    var first = 0
    while first < rows:
        var end = end_of_run(slots, first, rows)
        var of_slot = keys.unsafe_offset(Int(slots.unsafe_offset(first).unsafe_load()) * slot_stride)
        for row in range(first, end):
            var key = of_slot.unsafe_offset(row * stride)
            var products = SIMD[DType.float32, width](0)
            comptime for c in range(chunks):
                products = key.unsafe_offset(c * width).unsafe_load[width=width]().fma(q[c], products)
            var score = products.reduce_add()
            scores.unsafe_offset(row).unsafe_store(score)
            largest = max(largest, score)
        first = end

    var total = Float32(0)
    var mixed = Array[SIMD[DType.float32, width], chunks](fill=0)
    first = 0
    while first < rows:
        var end = end_of_run(slots, first, rows)
        var of_slot = values.unsafe_offset(Int(slots.unsafe_offset(first).unsafe_load()) * slot_stride)
        for row in range(first, end):
            var weight = exp(scores.unsafe_offset(row).unsafe_load() - largest)
            total += weight
            var value = of_slot.unsafe_offset(row * stride)
            comptime for c in range(chunks):
                mixed[c] = value.unsafe_offset(c * width).unsafe_load[width=width]().fma(weight, mixed[c])
        first = end
    comptime for c in range(chunks):
        output.unsafe_offset(c * width).unsafe_store(mixed[c] / total)
