"""The register tile that every matrix product of the network is made of.

A product y = x @ w.T is cut into tiles of `ROWS` rows and 32 columns, a panel of w. Both operands are read as words of
four bytes, one float32, two bfloat16 or int16, or four int8 along the contracted axis, so one loop serves all. It takes
as many columns at a time as two registers hold, all 32 with AVX-512, 16 with AVX2:

                     panel of w: [words][32 columns]           register     register
                                                     word k   [c0 c1 .. c15|c16 .. c31]
    x: word k of row 0      splat to a register ->            [  y[0][0]   |  y[0][1]  ]
       word k of row 1      splat to a register ->            [  y[1][0]   |  y[1][1]  ]
       ..                                                     [    ..      |    ..     ]
       word k of row 11                                       [  y[11][0]  |  y[11][1] ]

The 12 x 2 sums, two registers of w and the splat fill 27 of the 32 registers of AVX-512 and of NEON; 6 x 2 sums leave
one of the 16 that older CPUs have. Every load of w is used for all rows.

int8 words are multiplied by vpdpbusd or sdot where the CPU has them and by pmaddwd on other x86, bfloat16 words by
vdpbf16ps, int16 words by vpdpwssd or pmaddwd. A CPU that has no instruction for int8 or bfloat16 multiplies int16 or
float32 instead: then x is packed so at once, `spread` words for one of w, and only w is widened in the loop.

The words are taken in chains of `CHAIN`, whose sums are added then. Rounding errors of a sum grow with the number of
its terms; with chains the error is that of PyTorch. And 16 KB of a panel stay in the first-level cache while the tiles
of many rows pass.
"""

from std.memory import bitcast
from std.sys import CompilationTarget, size_of
from std.sys._assembly import inlined_assembly
from std.sys.intrinsics import PrefetchOptions, llvm_intrinsic, prefetch

comptime LANES = 16
comptime VECTORS = 2
comptime PANEL = LANES * VECTORS

comptime WIDTH = 16 if CompilationTarget.has_avx512f() else 8 if CompilationTarget.has_avx2() else 4
"""Words in a register."""

comptime ROWS = 12 if CompilationTarget.has_avx512f() or CompilationTarget.has_neon() else 6

comptime VNNI = CompilationTarget.has_avx512f() and CompilationTarget.has_vnni()
comptime SDOT = CompilationTarget.has_neon() and CompilationTarget._has_feature["dotprod"]()
comptime PAIRS = CompilationTarget.is_x86() and not VNNI
comptime BF16 = CompilationTarget._has_feature["avx512bf16"]()
comptime FMA = CompilationTarget.has_fma() or CompilationTarget.has_neon()

comptime ZERO_POINT = 128 if VNNI else 0
"""Added to int8 activations where the instruction wants them unsigned."""

comptime CHAIN = 128
"""Words whose products are added one after the other."""

comptime UNROLLED = 2 if WIDTH > 4 else 1
"""Words in one turn of the inner loop: a CPU fetches a short loop more slowly than it could multiply."""

comptime LINE = 16
"""Words in a line of the cache."""

comptime Words = SIMD[DType.int32, LANES]
comptime Floats = SIMD[DType.float32, LANES]
comptime Register = SIMD[DType.int32, WIDTH]


def group[format: DType]() -> Int:
    """Values of a format in one word."""
    return 4 // size_of[format]()


def spread[format: DType]() -> Int:
    """Words that hold the values of x for one word of w: 2 where x is widened when it is packed."""
    comptime narrow = (format == DType.bfloat16 and not BF16) or (format == DType.int8 and not (VNNI or SDOT))
    return 2 if narrow else 1


def sum_type[format: DType]() -> DType:
    """What products of a format are summed in."""
    return DType.int32 if format.is_integral() else DType.float32


comptime TILES: List[Int] = [1, 2, 4, 5, 8, ROWS]
"""Rows that a tile can have, at most `ROWS`; five is the usual number of beams."""


def tile_rows(left: Int) -> Int:
    """Rows of the tile that takes the next of `left` rows: the fewest that suffice, or the most there are."""
    comptime for rows in TILES:
        comptime if rows < ROWS:
            if left <= rows:
                return rows
    return ROWS


comptime READ = PrefetchOptions().for_read().high_locality().to_data_cache()


def registers_per_row(rows: Int) -> Int:
    """Registers of columns that are summed at a time: all of a panel for one or two rows, otherwise two."""
    return min(PANEL // WIDTH, 4) if rows <= 2 else 2


@always_inline
def multiply_add[
    width: Int
](x: SIMD[DType.float32, width], y: SIMD[DType.float32, width], sums: SIMD[DType.float32, width]) -> SIMD[
    DType.float32, width
]:
    """Return x * y + sums, rounded once if the CPU can; otherwise `fma` would be a call for every lane."""
    comptime if FMA:
        return x.fma(y, sums)
    else:
        return x * y + sums


@always_inline
def widened[format: DType, part: Int, width: Int](words: SIMD[DType.int32, width]) -> SIMD[DType.int32, width]:
    """Half of the values of words in twice the bits: the even ones for part 0, the odd ones for part 1."""
    comptime if format == DType.bfloat16:
        comptime if part == 0:
            return words << SIMD[DType.int32, width](16)
        else:
            return words & SIMD[DType.int32, width](-65536)
    else:
        comptime Halves = SIMD[DType.int16, 2 * width]
        var halves = bitcast[DType.int16, 2 * width](words)
        comptime if part == 0:
            halves = halves << Halves(8)
        return bitcast[DType.int32, width](halves >> Halves(8))


@always_inline
def spread_out[
    format: DType, width: Int
](words: SIMD[DType.int32, width]) -> SIMD[DType.int32, width * spread[format]()]:
    """Words in the form in which x is multiplied."""
    comptime Result = SIMD[DType.int32, width * spread[format]()]
    comptime if spread[format]() == 1:
        return rebind[Result](words)
    else:
        return rebind[Result](widened[format, 0](words).interleave(widened[format, 1](words)))


@always_inline
def fixed(sums: Register) -> Register:
    """The same, though LLVM cannot know: it would add products of some words first, in registers it lacks."""
    return inlined_assembly["", Register, constraints="=x,0", has_side_effect=False](sums)


@always_inline
def dot[
    format: DType, total: DType
](sums: SIMD[total, WIDTH], x: Register, w: Register) -> SIMD[total, WIDTH]:
    """Add to each lane of `sums` the product of a word of x and a word of w; w is widened if x is."""
    comptime Sums = SIMD[total, WIDTH]
    comptime Result = SIMD[DType.float32, WIDTH]
    comptime if format == DType.float32 or (format == DType.bfloat16 and not BF16):
        var factors = bitcast[DType.float32, WIDTH](x), bitcast[DType.float32, WIDTH](w)
        return rebind[Sums](multiply_add(factors[0], factors[1], rebind[Result](sums)))
    elif format == DType.bfloat16:
        return rebind[Sums](
            llvm_intrinsic["llvm.x86.avx512bf16.dpbf16ps.512", Result](
                rebind[Result](sums), bitcast[DType.bfloat16, 2 * WIDTH](x), bitcast[DType.bfloat16, 2 * WIDTH](w)
            )
        )
    elif VNNI and format == DType.int16:
        return rebind[Sums](
            llvm_intrinsic["llvm.x86.avx512.vpdpwssd.512", Register](
                rebind[Register](sums), bitcast[DType.int16, 2 * WIDTH](x), bitcast[DType.int16, 2 * WIDTH](w)
            )
        )
    elif VNNI:
        return rebind[Sums](
            llvm_intrinsic["llvm.x86.avx512.vpdpbusd.512", Register](
                rebind[Register](sums), bitcast[DType.uint8, 4 * WIDTH](x), bitcast[DType.int8, 4 * WIDTH](w)
            )
        )
    elif SDOT and format == DType.int8:
        return rebind[Sums](
            llvm_intrinsic["llvm.aarch64.neon.sdot.v4i32.v16i8", Register](
                rebind[Register](sums), bitcast[DType.int8, 4 * WIDTH](x), bitcast[DType.int8, 4 * WIDTH](w)
            )
        )
    elif PAIRS:
        comptime of_avx2 = "llvm.x86.avx2.pmadd.wd" if WIDTH == 8 else "llvm.x86.sse2.pmadd.wd"
        comptime pmaddwd = "llvm.x86.avx512.pmaddw.d.512" if WIDTH == 16 else of_avx2
        var pairs = llvm_intrinsic[pmaddwd, Register](
            bitcast[DType.int16, 2 * WIDTH](x), bitcast[DType.int16, 2 * WIDTH](w)
        )
        return rebind[Sums](fixed(rebind[Register](sums) + pairs))
    else:
        var low = ((x << Register(16)) >> Register(16)) * ((w << Register(16)) >> Register(16))
        return rebind[Sums](rebind[Register](sums) + low + (x >> Register(16)) * (w >> Register(16)))


def chain_words[format: DType]() -> Int:
    """Words of a chain: fewer for int16, because int32 has to hold the sum of its products."""
    return CHAIN // 4 if format == DType.int16 else CHAIN


@always_inline
def multiply[
    format: DType, rows: Int, word_step: Int, row_step: Int, total: DType
](
    sums: Pointer[mut=True, Scalar[total], _],
    sum_step: Int,
    x: Pointer[Int32, _],
    panel: Pointer[Int32, _],
    words: Int,
):
    """Compute sums[rows, 32] = x[rows, words] @ panel[words, 32].

    Args:
        sums: Column c of row r lies at `r * sum_step + c`.
        sum_step: From one row of sums to the next.
        x: Word k of row r, counting the words of `spread`, lies at `k * word_step + r * row_step`.
        panel: Word k of column c lies at `k * 32 + c`.
        words: Of the panel, to contract.
    """
    comptime chain = chain_words[format]()
    for first in range(0, words, chain):
        multiply_chain[format, rows, word_step, row_step](
            sums,
            sum_step,
            x.unsafe_offset(first * spread[format]() * word_step),
            panel.unsafe_offset(first * PANEL),
            min(chain, words - first),
            first > 0,
        )


@always_inline
def multiply_chain[
    format: DType, rows: Int, word_step: Int, row_step: Int, total: DType
](
    sums: Pointer[mut=True, Scalar[total], _],
    sum_step: Int,
    x: Pointer[Int32, _],
    panel: Pointer[Int32, _],
    words: Int,
    add: Bool,
):
    """A `multiply` of at most `CHAIN` words, whose result is added to the sums if `add`."""
    comptime parts = spread[format]()
    comptime vectors = registers_per_row(rows)
    # more rows take one part after the other: LLVM would reorder the sums until they need too many registers
    comptime passes = 1 if rows <= 2 else parts
    comptime ahead = CHAIN // 4 if rows <= 2 else CHAIN
    for column in range(0, PANEL, vectors * WIDTH):
        var chain = Array[SIMD[sum_type[format](), WIDTH], vectors * rows](fill=0)
        comptime for one_pass in range(passes):

            @always_inline
            def one_word(k: Int) {mut chain, imm}:
                var words_of_k = panel.unsafe_offset(k * PANEL + column)
                comptime for part in range(parts // passes):
                    comptime own = one_pass + part
                    var w = Array[Register, vectors](fill=0)
                    comptime for v in range(vectors):
                        w[v] = words_of_k.unsafe_offset(v * WIDTH).unsafe_load[width=WIDTH]()
                        comptime if parts > 1:
                            w[v] = widened[format, own](w[v])
                    comptime for r in range(rows):
                        var word = x.unsafe_offset((parts * k + own) * word_step + r * row_step).unsafe_load()
                        comptime for v in range(vectors):
                            chain[vectors * r + v] = dot[format](chain[vectors * r + v], Register(word), w[v])

            # a pass fetches its share of the words to come, those of every turn of the loop one after the other
            comptime turn = UNROLLED * passes
            var turns = words // turn
            for t in range(turns):
                comptime for i in range(UNROLLED):
                    comptime first = ahead + one_pass * (CHAIN // passes) + i
                    var to_come = panel.unsafe_offset((first + t * UNROLLED) * PANEL + column)
                    comptime for line in range(0, vectors * WIDTH, LINE):
                        prefetch[READ](to_come.unsafe_offset(line))
                comptime for i in range(turn):
                    one_word(t * turn + i)
            for k in range(turns * turn, words):
                one_word(k)
        comptime for r in range(rows):
            comptime for v in range(vectors):
                var place = sums.unsafe_offset(r * sum_step + column + v * WIDTH)
                var chain_sums = chain[vectors * r + v].cast[total]()
                if add:
                    place.unsafe_store(place.unsafe_load[width=WIDTH]() + chain_sums)
                else:
                    place.unsafe_store(chain_sums)


@always_inline
def multiply_widened[
    rows: Int, value_step: Int, row_step: Int
](
    sums: Pointer[mut=True, Float32, _],
    sum_step: Int,
    x: Pointer[Float32, _],
    panel: Pointer[Int32, _],
    words: Int,
):
    """Compute sums[rows, 32] = x[rows, 4 * words] of float32 @ panel[words, 32] of int8, widened on the way.

    For weights that are read once and few rows: the memory is waited for, not the arithmetic. One or two rows have
    several sums for the bytes of a word, as many as make eight chains of additions, because a single chain would be
    waited for too.

    Args:
        sums: Column c of row r lies at `r * sum_step + c`.
        sum_step: From one row of sums to the next.
        x: Value i of row r lies at `i * value_step + r * row_step`.
        panel: Word k of column c lies at `k * 32 + c`.
        words: To contract.
    """
    comptime vectors = registers_per_row(rows)
    comptime chains = max(1, 8 // (vectors * rows))
    for column in range(0, PANEL, vectors * WIDTH):
        var chain = Array[SIMD[DType.float32, WIDTH], vectors * chains * rows](fill=0)
        for k in range(words):
            var words_of_k = panel.unsafe_offset(k * PANEL + column)
            comptime for line in range(0, vectors * WIDTH, LINE):
                prefetch[READ](words_of_k.unsafe_offset(CHAIN // 4 * PANEL + line))
            comptime for byte in range(4):
                comptime above = Int32(24 - 8 * byte)
                var w = Array[SIMD[DType.float32, WIDTH], vectors](fill=0)
                comptime for v in range(vectors):
                    var four = words_of_k.unsafe_offset(v * WIDTH).unsafe_load[width=WIDTH]()
                    w[v] = ((four << Register(above)) >> Register(24)).cast[DType.float32]()
                comptime for r in range(rows):
                    var value = x.unsafe_offset((4 * k + byte) * value_step + r * row_step).unsafe_load()
                    comptime for v in range(vectors):
                        comptime place = ((byte % chains) * rows + r) * vectors + v
                        chain[place] = multiply_add(w[v], SIMD[DType.float32, WIDTH](value), chain[place])
        comptime for r in range(rows):
            comptime for v in range(vectors):
                var total = chain[vectors * r + v]
                comptime for other in range(1, chains):
                    total += chain[(other * rows + r) * vectors + v]
                sums.unsafe_offset(r * sum_step + column + v * WIDTH).unsafe_store(total)
