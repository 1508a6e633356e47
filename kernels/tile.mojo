"""The register tile that every matrix product of the network is made of.

A product y = x @ w.T is cut into tiles of `rows` rows and 32 columns. Both operands are read as words of four bytes,
one float32, two bfloat16 or four int8 along the contracted axis, so one loop serves all three formats:

                     panel of w: [words][32 columns]           16 lanes     16 lanes
                                                     word k   [c0 c1 .. c15|c16 .. c31]
    x: word k of row 0      splat to 16 lanes   ->            [  y[0][0]   |  y[0][1]  ]
       word k of row 1      splat to 16 lanes   ->            [  y[1][0]   |  y[1][1]  ]
       ..                                                     [    ..      |    ..     ]
       word k of row 11                                       [  y[11][0]  |  y[11][1] ]

int8 words are multiplied by vpdpbusd where the CPU has it, by vpmaddwd from AVX2 on, otherwise byte by byte; bfloat16
words by vdpbf16ps, otherwise as two float32.

With AVX-512 the 12 x 2 sums, the two vectors of w and the splat fill 27 of 32 registers, and every load of w
is used twelve times. A panel is read once from front to back, so few rows run at the speed of memory.

Rounding errors of a sum grow with the number of its terms. In float32 no more than `CHAIN` words are added in one go,
and the sums of such chains are added then: the error is that of PyTorch.
"""

from std.memory import bitcast
from std.sys import CompilationTarget, size_of
from std.sys.intrinsics import llvm_intrinsic

comptime LANES = 16
comptime VECTORS = 2
comptime PANEL = LANES * VECTORS
comptime ROWS = 12 if CompilationTarget.has_avx512f() else 3

comptime VNNI = CompilationTarget.has_avx512f() and CompilationTarget.has_vnni()
comptime PAIRS = CompilationTarget.has_avx2()
comptime BF16 = CompilationTarget._has_feature["avx512bf16"]()

comptime ZERO_POINT = 128 if VNNI else 0
"""Added to int8 activations where the instruction wants them unsigned."""

comptime CHAIN = 128
"""Products of float32 that are added one after the other."""

comptime Words = SIMD[DType.int32, LANES]
comptime Floats = SIMD[DType.float32, LANES]


def group[format: DType]() -> Int:
    """Values of a format in one word."""
    return 4 // size_of[format]()


def sum_type[format: DType]() -> DType:
    """What products of a format are summed in."""
    return DType.int32 if format == DType.int8 else DType.float32


def tile_rows(left: Int) -> Int:
    """Rows of the tile that takes the next of `left` rows: the most, or the next power of two."""
    if left >= ROWS or left > 8:
        return ROWS
    var rows = 1
    while rows < left:
        rows *= 2
    return min(rows, ROWS)


@always_inline
def dot[
    format: DType, total: DType
](sums: SIMD[total, LANES], x: Words, w: Words) -> SIMD[total, LANES]:
    """Add to each lane of `sums` the product of a word of x and a word of w."""
    comptime if format == DType.float32:
        var product = bitcast[DType.float32, LANES](x).fma(
            bitcast[DType.float32, LANES](w), rebind[Floats](sums)
        )
        return rebind[SIMD[total, LANES]](product)
    elif format == DType.bfloat16:
        var so_far = rebind[Floats](sums)
        comptime if BF16:
            so_far = llvm_intrinsic["llvm.x86.avx512bf16.dpbf16ps.512", Floats](
                so_far, bitcast[DType.bfloat16, 2 * LANES](x), bitcast[DType.bfloat16, 2 * LANES](w)
            )
        else:
            so_far = bitcast[DType.float32, LANES](x << Words(16)).fma(bitcast[DType.float32, LANES](w << Words(16)), so_far)
            comptime high = Int32(-65536)
            so_far = bitcast[DType.float32, LANES](x & Words(high)).fma(bitcast[DType.float32, LANES](w & Words(high)), so_far)
        return rebind[SIMD[total, LANES]](so_far)
    else:
        var so_far = rebind[Words](sums)
        comptime if VNNI:
            so_far = llvm_intrinsic["llvm.x86.avx512.vpdpbusd.512", Words](
                so_far, bitcast[DType.uint8, 4 * LANES](x), bitcast[DType.int8, 4 * LANES](w)
            )
        elif PAIRS:
            # the even and the odd bytes of both as int16, whose products are added in pairs
            comptime Halves = SIMD[DType.int16, 2 * LANES]
            var x16, w16 = bitcast[DType.int16, 2 * LANES](x), bitcast[DType.int16, 2 * LANES](w)
            so_far += add_pairs((x16 << Halves(8)) >> Halves(8), (w16 << Halves(8)) >> Halves(8))
            so_far += add_pairs(x16 >> Halves(8), w16 >> Halves(8))
        else:
            comptime for byte in range(4):
                comptime above = Int32(24 - 8 * byte)
                so_far += ((x << Words(above)) >> Words(24)) * ((w << Words(above)) >> Words(24))
        return rebind[SIMD[total, LANES]](so_far)


@always_inline
def add_pairs(x: SIMD[DType.int16, 2 * LANES], w: SIMD[DType.int16, 2 * LANES]) -> Words:
    """Sums of the products of two neighbouring int16: vpmaddwd, in one piece with AVX-512 and in two with AVX2."""
    comptime if CompilationTarget.has_avx512f():
        return llvm_intrinsic["llvm.x86.avx512.pmaddw.d.512", Words](x, w)
    else:
        comptime Half = SIMD[DType.int32, LANES // 2]
        var low = llvm_intrinsic["llvm.x86.avx2.pmadd.wd", Half](x.slice[LANES](), w.slice[LANES]())
        var high = llvm_intrinsic["llvm.x86.avx2.pmadd.wd", Half](
            x.slice[LANES, offset=LANES](), w.slice[LANES, offset=LANES]()
        )
        return low.join(high)


@always_inline
def multiply[
    format: DType, rows: Int, word_step: Int, row_step: Int, total: DType
](
    mut sums: Array[SIMD[total, LANES], rows * VECTORS],
    x: Pointer[Int32, _],
    panel: Pointer[Int32, _],
    words: Int,
):
    """Add x[rows, words] @ panel[words, 32] to `sums`.

    Args:
        sums: Of row r the vectors 2r and 2r + 1.
        x: Word k of row r lies at `k * word_step + r * row_step`.
        panel: Word k of column c lies at `k * 32 + c`.
        words: To contract.
    """
    comptime if format == DType.float32:
        for first in range(0, words, CHAIN):
            var chains = Array[SIMD[total, LANES], rows * VECTORS](fill=0)
            multiply_chain[format, rows, word_step, row_step](chains, x, panel, first, min(first + CHAIN, words))
            comptime for i in range(rows * VECTORS):
                sums[i] += chains[i]
    else:
        multiply_chain[format, rows, word_step, row_step](sums, x, panel, 0, words)


@always_inline
def multiply_chain[
    format: DType, rows: Int, word_step: Int, row_step: Int, total: DType
](
    mut sums: Array[SIMD[total, LANES], rows * VECTORS],
    x: Pointer[Int32, _],
    panel: Pointer[Int32, _],
    first: Int,
    end: Int,
):
    """Words `first` to `end` of `multiply`, each added to the sums in turn."""
    for k in range(first, end):
        var w = Array[Words, VECTORS](fill=0)
        comptime for v in range(VECTORS):
            w[v] = panel.unsafe_offset(k * PANEL + v * LANES).unsafe_load[width=LANES]()
        comptime for r in range(rows):
            var splat = Words(x.unsafe_offset(k * word_step + r * row_step).unsafe_load())
            comptime for v in range(VECTORS):
                sums[r * VECTORS + v] = dot[format](sums[r * VECTORS + v], splat, w[v])


@always_inline
def multiply_widened[
    rows: Int, value_step: Int, row_step: Int
](
    mut sums: Array[Floats, rows * VECTORS],
    x: Pointer[Float32, _],
    panel: Pointer[Int32, _],
    words: Int,
):
    """Add x[rows, 4 * words] of float32 @ panel[words, 32] of int8, each int8 made a float32 on the way.

    For weights that are read once and few rows: the memory is waited for, not the arithmetic. One row has a sum for
    every byte of a word, because a single chain of additions would be waited for too.

    Args:
        sums: Of row r the vectors 2r and 2r + 1.
        x: Value i of row r lies at `i * value_step + r * row_step`.
        panel: Word k of column c lies at `k * 32 + c`.
        words: To contract.
    """
    comptime chains = 4 if rows == 1 else 1
    var parts = Array[Floats, chains * rows * VECTORS](fill=0)
    for k in range(words):
        comptime for byte in range(4):
            comptime above = Int32(24 - 8 * byte)
            var w = Array[Floats, VECTORS](fill=0)
            comptime for v in range(VECTORS):
                var four = panel.unsafe_offset(k * PANEL + v * LANES).unsafe_load[width=LANES]()
                w[v] = ((four << Words(above)) >> Words(24)).cast[DType.float32]()
            comptime for r in range(rows):
                var splat = Floats(x.unsafe_offset((4 * k + byte) * value_step + r * row_step).unsafe_load())
                comptime for v in range(VECTORS):
                    comptime place = ((byte % chains) * rows + r) * VECTORS + v
                    parts[place] = splat.fma(w[v], parts[place])
    comptime for i in range(chains * rows * VECTORS):
        sums[i % (rows * VECTORS)] += parts[i]
