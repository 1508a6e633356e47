"""Rows of float32 to the words that `tile.multiply` reads, interleaved by row.

    x: row 0  [ a0 a1 a2 .. ]          words  [ a | b | .. ]   word 0 of every row of the tile
       row 1  [ b0 b1 b2 .. ]    ->           [ a | b | .. ]   word 1
       ..                                     [      ..    ]

float32 is copied, bfloat16 rounded to nearest. Where the CPU multiplies wider values than a format has, a word becomes
two (`tile.spread`). For int8 every row has a scale of its own, its largest magnitude over 127, so a token or frame that
is loud takes no precision from its neighbours.
"""

from std.memory import bitcast

from .tile import BF16, LANES, ZERO_POINT, group, spread, spread_out


@always_inline
def to_bfloat16[width: Int](x: SIMD[DType.float32, width]) -> SIMD[DType.uint32, width]:
    """The bits of x rounded to the nearest bfloat16, in the upper halves; a `cast` would be a call for every lane."""
    comptime Bits = SIMD[DType.uint32, width]
    var bits = bitcast[DType.uint32, width](x)
    var nearest = bits + Bits(0x7FFF) + ((bits >> Bits(16)) & Bits(1))
    # rounding would carry some that are not numbers over to zero
    var no_number = (bits & Bits(0x7FFFFFFF)).gt(Bits(0x7F800000))
    return no_number.select(bits | Bits(0x00400000), nearest) & Bits(0xFFFF0000)


@always_inline
def rounded[format: DType, words: Int](values: SIMD[DType.float32, _]) -> SIMD[DType.int32, words]:
    """Values of float32 or bfloat16, or whole steps of int16, as `words` words."""
    comptime if format == DType.float32:
        return bitcast[DType.int32, words](values)
    elif format == DType.int16:
        return bitcast[DType.int32, words](values.cast[DType.int16]())
    elif BF16:
        return bitcast[DType.int32, words](values.cast[DType.bfloat16]())
    else:
        var even, odd = to_bfloat16[2 * words](rebind[SIMD[DType.float32, 2 * words]](values)).deinterleave()
        return rebind[SIMD[DType.int32, words]](((even >> 16) | odd).cast[DType.int32]())


@always_inline
def as_words[
    format: DType, words: Int, zero_point: Int
](x: Pointer[Float32, _], inverse: Float32) -> SIMD[DType.int32, words]:
    """The next `words` words of a row; integers are multiplied by `inverse`, rounded, and moved up by `zero_point`."""
    comptime width = words * group[format]()
    var values = x.unsafe_load[width=width]()
    comptime if format == DType.int16:
        return rounded[format, words]((values * inverse).__round__())
    elif format != DType.int8:
        return rounded[format, words](values)
    else:
        var steps = (values * inverse).__round__().cast[DType.int32]() + Int32(zero_point)
        return bitcast[DType.int32, words](steps.cast[DType.uint8]())


@always_inline
def largest_magnitude(x: Pointer[Float32, _], count: Int) -> Float32:
    """The largest magnitude of `count` floats."""
    var largest = SIMD[DType.float32, LANES](0)
    var i = 0
    while i + LANES <= count:
        largest = max(largest, abs(x.unsafe_offset(i).unsafe_load[width=LANES]()))
        i += LANES
    var result = largest.reduce_max()
    while i < count:
        result = max(result, abs(x.unsafe_offset(i).unsafe_load()))
        i += 1
    return result


@always_inline
def pack_row[
    format: DType
](packed: Pointer[mut=True, Int32, _], x: Pointer[Float32, _], words: Int, step: Int) -> Float32:
    """Write one row of x for `words` words of a weight, its own words `step` apart.

    Returns:
        What a product with the packed row is to be multiplied by: the row's scale, 1 where none is needed.
    """
    var scale = Float32(1)
    var inverse = Float32(1)
    comptime if format == DType.int8:
        var largest = largest_magnitude(x, words * group[format]())
        scale = largest / 127
        inverse = 127 / largest if largest > 0 else Float32(0)
    comptime parts = spread[format]()
    var k = 0
    while k + LANES <= words:
        var words_of_k = as_words[format, LANES, ZERO_POINT](x.unsafe_offset(k * group[format]()), inverse)
        var next = spread_out[format, LANES](words_of_k)
        if step == 1:
            packed.unsafe_offset(k * parts).unsafe_store(next)
        else:
            comptime for i in range(LANES * parts):
                packed.unsafe_offset((k * parts + i) * step).unsafe_store(next[i])
        k += LANES
    while k < words:
        var word = as_words[format, 1, ZERO_POINT](x.unsafe_offset(k * group[format]()), inverse)
        var next = spread_out[format, 1](word)
        comptime for i in range(parts):
            packed.unsafe_offset((k * parts + i) * step).unsafe_store(next[i])
        k += 1
    return scale
