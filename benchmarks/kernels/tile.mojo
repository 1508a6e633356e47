"""What products of many rows reach beside their inner loop: built and run by tile.py.

Inner loop: every thread takes a tile of packed rows and a chain of a panel, which stay in its first-level cache, through
`multiply_chain` again and again. Product: `product` of 1500 fresh rows, which packs them, and adds scales and bias. The
two take turns, because a machine's speed changes from second to second.
"""

from std.sys import argv
from std.time import perf_counter_ns

from kernels.product import Matrix, NONE, contiguous, plain, product, untracked
from kernels.tile import CHAIN, PANEL, ROWS, group, multiply_chain, spread, sum_type
from max.algorithm import sync_parallelize
from max.runtime.asyncrt import parallelism_level

comptime FRAMES = 1500
comptime TURNS = 15
comptime REPEATS = 2000


def median(mut values: List[Float64]) -> Float64:
    sort(values)
    return values[len(values) // 2]


@no_inline
def inner_loop[
    format: DType
](sums: Pointer[mut=True, Int32, _], x: Pointer[Int32, _], panel: Pointer[Int32, _]):
    for _ in range(REPEATS):
        multiply_chain[format, ROWS, ROWS, 1](
            sums.unsafe_bitcast[Scalar[sum_type[format]()]](), PANEL, x, panel, CHAIN, True
        )


def measure[format: DType](n_in: Int, n_out: Int):
    """Print the medians of both in 10^9 operations per second, and of their ratio."""
    comptime values = group[format]()
    comptime row_size = ROWS * CHAIN * spread[format]()
    var threads = parallelism_level(None)
    var tiles = List[Int32](length=threads * row_size, fill=0)
    var chains = List[Int32](length=threads * CHAIN * PANEL, fill=0)
    var sums = List[Int32](length=threads * ROWS * PANEL, fill=0)
    var tile_data, chain_data, sum_data = tiles.unsafe_ptr(), chains.unsafe_ptr(), sums.unsafe_ptr()

    def one_thread(thread: Int) {imm}:
        inner_loop[format](
            sum_data.unsafe_offset(thread * ROWS * PANEL),
            tile_data.unsafe_offset(thread * row_size),
            chain_data.unsafe_offset(thread * CHAIN * PANEL),
        )

    var x = List[Float32](length=FRAMES * n_in, fill=0.5)
    var output = List[Float32](length=FRAMES * n_out, fill=0)
    var panels = List[Int32](length=(n_out + PANEL - 1) // PANEL * PANEL * n_in // values, fill=0)
    var ones = List[Float32](length=n_out, fill=1)
    var column_sums = List[Int32](length=n_out, fill=0)
    var vector = untracked(ones.unsafe_ptr())
    var weight = Matrix[format](
        untracked(panels.unsafe_ptr()), vector, untracked(column_sums.unsafe_ptr()), vector, n_out, n_in // values
    )
    var hot = List[Float64]()
    var fresh = List[Float64]()
    var ratios = List[Float64]()
    for turn in range(TURNS + 1):
        var begin = perf_counter_ns()
        sync_parallelize(one_thread, threads)
        var between = perf_counter_ns()
        product[format](output.unsafe_ptr(), contiguous(x.unsafe_ptr(), FRAMES, n_in), weight, plain(NONE, vector))
        var end = perf_counter_ns()
        if turn > 0:  # the first wakes the threads
            hot.append(2 * Float64(threads * REPEATS * ROWS * PANEL * CHAIN * values) / Float64(between - begin))
            fresh.append(2 * Float64(FRAMES * n_in * n_out) / Float64(end - between))
            ratios.append(fresh[len(fresh) - 1] / hot[len(hot) - 1])
    print(String(format), n_in, n_out, Int(median(hot)), Int(median(fresh)), Int(100 * median(ratios)), sep="\t")
    _ = tiles^
    _ = chains^
    _ = sums^
    _ = x^
    _ = panels^
    _ = ones^
    _ = column_sums^


def main() raises:
    for i in range(1, len(argv())):
        var state = Int(argv()[i])
        for shape in [(state, state), (state, 4 * state), (4 * state, state)]:
            measure[DType.float32](shape[0], shape[1])
            measure[DType.bfloat16](shape[0], shape[1])
            measure[DType.int8](shape[0], shape[1])
