"""One query against many keys: the inner loop that decoder attention is made of.

Keys and values are rows of `stride` floats, of which one head owns `head_dim`:

                 stride
        |<------------------->|
    0   [ h0 | h1 | h2 |  ..  ]
    1   [ h0 | h1 | h2 |  ..  ]     scores[row] = query . keys[row]       first pass, and the maximum
   ..                               output = sum(exp(scores[row] - max) * values[row]) / sum(exp(..))
  rows  [ h0 | h1 | h2 |  ..  ]                                           second pass

The query and the accumulator of one head stay in registers (64 floats are eight AVX2 or four
AVX-512 vectors), so both passes run at the speed at which keys and values arrive from memory.
"""

from std.math import exp
from std.sys import simd_width_of


def attend[
    head_dim: Int
](
    output: Pointer[mut=True, Float32, _],
    query: Pointer[Float32, _],
    keys: Pointer[Float32, _],
    values: Pointer[Float32, _],
    scores: Pointer[mut=True, Float32, _],
    rows: Int,
    stride: Int,
):
    """Write softmax(query . keys / sqrt(head_dim)) @ values for one head.

    Args:
        output: `head_dim` floats.
        query: `head_dim` floats, unscaled.
        keys: `rows` rows, the head's first float of each `stride` apart.
        values: The same of the values.
        scores: Scratch of `rows` floats.
        rows: Keys to attend to, at least one.
        stride: Floats between two rows.
    """
    comptime width = min(simd_width_of[DType.float32](), head_dim)
    comptime chunks = head_dim // width
    comptime scale = Float32(Float64(head_dim) ** -0.5)
    comptime assert chunks * width == head_dim, "head_dim must be a power of two, or a multiple of the SIMD width"

    var q = Array[SIMD[DType.float32, width], chunks](fill=0)
    comptime for c in range(chunks):
        q[c] = query.unsafe_offset(c * width).unsafe_load[width=width]() * scale

    var largest = Float32.MIN
    for row in range(rows):
        var key = keys.unsafe_offset(row * stride)
        var products = SIMD[DType.float32, width](0)
        comptime for c in range(chunks):
            products = key.unsafe_offset(c * width).unsafe_load[width=width]().fma(q[c], products)
        var score = products.reduce_add()
        scores.unsafe_offset(row).unsafe_store(score)
        largest = max(largest, score)

    var total = Float32(0)
    var mixed = Array[SIMD[DType.float32, width], chunks](fill=0)
    for row in range(rows):
        var weight = exp(scores.unsafe_offset(row).unsafe_load() - largest)
        total += weight
        var value = values.unsafe_offset(row * stride)
        comptime for c in range(chunks):
            mixed[c] = value.unsafe_offset(c * width).unsafe_load[width=width]().fma(weight, mixed[c])
    comptime for c in range(chunks):
        output.unsafe_offset(c * width).unsafe_store(mixed[c] / total)
