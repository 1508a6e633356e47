"""Whisper's log-mel spectrogram on a device: what log_mel.mojo does on a CPU, eight frames at a time by one block.

The transform has two parts, 400 = 16 * 25, with n = 25 * row + column, k = k1 + 16 * k2 and W = exp(-2 pi i / 400):

    X[k] = sum over columns of  W^(column * k) * sum over rows of  W^(25 * row * k1) * x[n]

A thread computes one of the inner sums, of which k1 = 9 .. 15 mirror k1 = 7 .. 1, then one X[k]; at last one mel channel
of all eight frames, so that every filter is read once. All but the filters' sums is float64, as on a CPU: a device for
computing has units enough, and another one still takes less than a millisecond for 30 s.
"""

from max.gpu import barrier, block_idx, thread_idx
from std.math import isnan, log10, pi
from std.memory import unsafe_stack_allocation
from std.utils.numerics import nan

from .frames import COLUMNS, HOP_LENGTH, LOWEST_POWER, N_BINS, N_FFT, ROWS, sample_at

comptime FRAMES = 8
"""Of a block."""

comptime MEL_THREADS = 256
"""Of a block."""

comptime SHARED = AddressSpace.SHARED
comptime INNER = (ROWS // 2 + 1) * COLUMNS
"""Inner sums that are computed."""

comptime QUARTER = N_FFT // 4
"""How far on in the table of cosines minus the sine of a root stands."""


@always_inline
def cosine(n: Int) -> Float64:
    """The cosine of 2 pi n / 400 for n from 0 to 399, within 2e-16: Taylor's series, after mirroring to an octant."""
    var folded = min(n, N_FFT - n)  # 0 .. 200
    var negative = folded > QUARTER
    folded = N_FFT // 2 - folded if negative else folded  # 0 .. 100
    var complement = folded > QUARTER // 2
    var x = 2 * pi / N_FFT * Float64(QUARTER - folded if complement else folded)
    var squared = x * x
    # of the sine for an angle beyond an eighth, from the smallest term on
    var first = Float64(2 if complement else 1)
    var sum = Float64(1)
    comptime for i in range(8, 0, -1):
        var m = first + Float64(2 * (i - 1))
        sum = 1 - squared / (m * (m + 1)) * sum
    sum = sum * x if complement else sum
    return -sum if negative else sum


@always_inline
def turned(root: Int) -> Int:
    """The same root for a number of less than two turns."""
    return root - N_FFT if root >= N_FFT else root


def log_mel_kernel(
    output: Pointer[Float32, MutAnyOrigin],
    samples: Pointer[Float32, ImmutAnyOrigin],
    filters: Pointer[Float32, ImmutAnyOrigin],
    length: Int64,
    n_mels: Int32,
    n_frames: Int64,
):
    """Decades of mel power of the frames from 8 times the block's number on; NaN where a power is no finite number.

    Args:
        output: [n_mels, n_frames].
        samples: [length], 16 kHz.
        filters: [n_mels, 201].
        length: Samples, at least 160.
        n_mels: Mel channels.
        n_frames: `length // 160`.
    """
    var cosines = unsafe_stack_allocation[N_FFT, Float64, address_space=SHARED]()
    var windowed = unsafe_stack_allocation[N_FFT, Float64, address_space=SHARED]()
    var inner_real = unsafe_stack_allocation[INNER, Float64, address_space=SHARED]()
    var inner_imag = unsafe_stack_allocation[INNER, Float64, address_space=SHARED]()
    var powers = unsafe_stack_allocation[FRAMES * N_BINS, Float32, address_space=SHARED]()
    var tid, first = Int(thread_idx.x), Int(block_idx.x) * FRAMES
    for n in range(tid, N_FFT, MEL_THREADS):
        cosines[unsafe_offset=n] = cosine(n)
    for frame in range(FRAMES):
        barrier()  # the cosines are there, and what the frame before wrote was read
        var start = (first + frame) * HOP_LENGTH - N_FFT // 2
        for n in range(tid, N_FFT, MEL_THREADS):
            var hann = 0.5 - 0.5 * cosines[unsafe_offset=n]
            var sample = sample_at(samples, start + n, Int(length))
            windowed[unsafe_offset=n] = sample.cast[DType.float64]() * hann
        barrier()
        if tid < INNER:
            var k1, column = tid // COLUMNS, tid % COLUMNS
            var real, imag, root = Float64(0), Float64(0), 0
            for row in range(ROWS):
                var x = windowed[unsafe_offset=row * COLUMNS + column]
                real = x.fma(cosines[unsafe_offset=root], real)
                imag = x.fma(cosines[unsafe_offset=turned(root + QUARTER)], imag)
                root = turned(root + COLUMNS * k1)
            inner_real[unsafe_offset=tid] = real
            inner_imag[unsafe_offset=tid] = imag
        barrier()
        if tid < N_BINS:
            # where k % 16 is above 8, 400 - k has the same power
            var k = tid if tid % ROWS <= ROWS // 2 else N_FFT - tid
            var from_column, root = k % ROWS * COLUMNS, 0
            var real, imag = Float64(0), Float64(0)
            for column in range(COLUMNS):
                var x_real = inner_real[unsafe_offset=from_column + column]
                var x_imag = inner_imag[unsafe_offset=from_column + column]
                var c, minus_s = cosines[unsafe_offset=root], cosines[unsafe_offset=turned(root + QUARTER)]
                real = x_real.fma(c, x_imag.fma(-minus_s, real))
                imag = x_imag.fma(c, x_real.fma(minus_s, imag))
                root = turned(root + k)
            powers[unsafe_offset=frame * N_BINS + tid] = real.fma(real, imag * imag).cast[DType.float32]()
    barrier()
    for mel in range(tid, Int(n_mels), MEL_THREADS):
        var sums = SIMD[DType.float32, FRAMES](0)
        for bin in range(N_BINS):
            var weight = filters.unsafe_offset(mel * N_BINS + bin).unsafe_load()
            if weight != 0:
                comptime for frame in range(FRAMES):
                    sums[frame] = weight.fma(powers[unsafe_offset=frame * N_BINS + bin], sums[frame])
        comptime for frame in range(FRAMES):
            if first + frame < Int(n_frames):
                # 0 * NaN and 0 * infinity are NaN
                var decades = log10(max(sums[frame], LOWEST_POWER))
                var is_number = 0 * sums[frame] == 0
                output.unsafe_offset(mel * Int(n_frames) + first + frame).unsafe_store(
                    decades if is_number else nan[DType.float32]()
                )
