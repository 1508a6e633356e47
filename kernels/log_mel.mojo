"""Whisper's log-mel spectrogram before it is scaled: samples to decades of power, with a Fourier transform of 400 in float64.

A SIMD vector holds one value of `LANES` neighbouring frames, so that nothing is ever shuffled. Frames
overlap by 240 samples: a tile copies its samples once, transposed, and sample n of all its frames is
one load (j = n % 160, shifted by n // 160 hops):

    samples  |<- 160 ->|<- 160 ->|<- 160 ->|..      hops[j]    [ s[j]  s[160 + j]  s[320 + j]  .. ]
    frame 0  [== 400 samples ========]                           |<- frames 0, 1, 2, .. ->|         n = j
    frame 1            [========================]                     |<- frames 0, 1, .. ->|       n = j + 160

The transform splits 400 = 16 * 25 by n = 25 * row + column and k = k1 + 16 * k2, W = exp(-2 pi i / 400):

    16 rows                       X[k1 + 16 * k2] = sum over columns of
    [ 0    1   ..  24 ]               W^(16 * column * k2)                    transforms of 25, k1 = 0 .. 8
    [ 25   26  ..  49 ]               * W^(column * k1)                       twiddles
    [ ..              ]               * sum over rows of
    [ 375  ..     399 ]                   W^(25 * row * k1) * x[n]            transforms of 16, real
       25 columns

The samples are real, so that k1 = 9 .. 15 mirror k1 = 7 .. 1 and are left out. Both short transforms
fold n with -n and are sums of products with cosines and sines from then on; they are a third longer than
nested butterflies of 2 and 5 and a tenth of the code. Of each mel filter only the bins from its first
to its last that is not zero are multiplied.

    a unit per 64 frames:    output[mel, frame] = log10(max(filters[mel] . power, 1e-10))

A frame has the same bits wherever in a recording the samples begin, so that a long one can be taken in parts. What
follows from the whole, the floor 8 decades below the loudest value and the scale, is for who knows the whole
(runtime/features.py).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import ceildiv, cos, log10, pi, sin
from std.sys import simd_width_of

from .frames import COLUMNS, HOP_LENGTH, LOWEST_POWER, N_BINS, N_FFT, ROWS, sample_at
from .log_mel_blocks import FRAMES, MEL_THREADS, log_mel_kernel
from .share import share_units

comptime LANES = simd_width_of[DType.float64]()
comptime FRAMES_PER_UNIT = 64
comptime Wave = SIMD[DType.float64, LANES]
comptime Power = SIMD[DType.float32, LANES]
# hops that the frames of a tile touch: the last one begins LANES - 1 hops after the first and is 2.5 long
comptime TILE_HOPS = LANES + 2


@extensibility.register("whisper2max.log_mel")
struct LogMel:
    """Shapes: samples [samples], filters [n_mels, 201], output [n_mels, samples // 160].

    A CPU refuses samples of which a power is no finite number; a device writes NaN for their powers."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        output: OutputTensor[dtype=DType.float32, rank=2, ...],
        samples: InputTensor[dtype=DType.float32, rank=1, ...],
        filters: InputTensor[dtype=DType.float32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var length = samples.dim_size(0)
        var n_mels = output.dim_size(0)
        var n_frames = output.dim_size(1)
        if filters.dim_size(0) != n_mels or filters.dim_size(1) != N_BINS:
            raise Error(
                "log_mel: the filters are [",
                filters.dim_size(0),
                ", ",
                filters.dim_size(1),
                "], not [",
                n_mels,
                ", 201]",
            )
        if n_frames != length // HOP_LENGTH:
            raise Error("log_mel: ", length, " samples make ", length // HOP_LENGTH, " frames of 160, not ", n_frames)
        if n_frames == 0:
            return

        var output_data = output.unsafe_ptr()
        var samples_data = samples.unsafe_ptr()
        var filters_data = filters.unsafe_ptr()
        comptime if target == "gpu":
            ctx.enqueue_function[log_mel_kernel](
                output_data,
                samples_data,
                filters_data,
                Int64(length),
                Int32(n_mels),
                Int64(n_frames),
                grid_dim=ceildiv(n_frames, FRAMES),
                block_dim=MEL_THREADS,
            )
        else:
            spectrogram(output_data, samples_data, filters_data, length, n_mels, n_frames)


def spectrogram(
    output: Pointer[mut=True, Float32, _],
    samples: Pointer[Float32, _],
    filters: Pointer[Float32, _],
    length: Int,
    n_mels: Int,
    n_frames: Int,
) raises:
    """Write decades of mel power.

    Args:
        output: [n_mels, n_frames] floats.
        samples: `length` floats, 16 kHz.
        filters: [n_mels, 201] floats.
        length: Samples, at least 160.
        n_mels: Mel channels.
        n_frames: `length // 160`.

    Raises:
        If a power is NaN or too large for float32, as those of NaN or infinite samples are.
    """
    var n_units = ceildiv(n_frames, FRAMES_PER_UNIT)
    var tables = Tables()
    var bands = non_zero_ranges(filters, n_mels)
    var sums = List[Float32](length=n_units, fill=0)
    var seen = sums.unsafe_ptr()

    def mel_decades(unit: Int) {imm}:
        var hops = List[Float32](length=HOP_LENGTH * TILE_HOPS, fill=0)
        var columns = List[Wave](length=2 * (ROWS // 2 + 1) * COLUMNS, fill=0)
        var powers = List[Power](length=N_BINS, fill=0)
        var zero_if_finite = Power(0)
        var start = unit * FRAMES_PER_UNIT
        for frame in range(start, min(start + FRAMES_PER_UNIT, n_frames), LANES):
            copy_hops(hops.unsafe_ptr(), samples, frame * HOP_LENGTH - N_FFT // 2, length)
            transform(powers.unsafe_ptr(), columns.unsafe_ptr(), hops.unsafe_ptr(), tables)
            var heard = min(LANES, n_frames - frame)
            for mel in range(n_mels):
                var power = Power(0)
                for bin in range(bands[2 * mel], bands[2 * mel + 1]):
                    var weight = filters.unsafe_offset(mel * N_BINS + bin).unsafe_load()
                    power = powers[bin].fma(weight, power)
                # 0 * NaN and 0 * infinity are NaN, and stay it
                zero_if_finite = power.fma(0, zero_if_finite)
                var decades = log10(max(power, LOWEST_POWER))
                var to = output.unsafe_offset(mel * n_frames + frame)
                if heard == LANES:
                    to.unsafe_store(decades)
                else:
                    for lane in range(heard):
                        to.unsafe_offset(lane).unsafe_store(decades[lane])
        seen.unsafe_offset(unit).unsafe_store(zero_if_finite.reduce_add())

    share_units(n_units, mel_decades)

    for zero in sums:
        if not zero == 0:
            raise Error(
                "log_mel: a sample is NaN or infinite, or too large for float32 powers; samples lie between -1 and 1"
            )


struct Tables:
    """The window and the 400th roots of unity: `cosines[n]` is cos(2 pi n / 400)."""

    var window: List[Float64]
    var cosines: List[Float64]
    var sines: List[Float64]

    def __init__(out self):
        self.window = List[Float64](capacity=N_FFT)
        self.cosines = List[Float64](capacity=N_FFT)
        self.sines = List[Float64](capacity=N_FFT)
        for n in range(N_FFT):
            var angle = 2 * pi * Float64(n) / N_FFT
            self.cosines.append(cos(angle))
            self.sines.append(sin(angle))
            self.window.append(0.5 - 0.5 * cos(angle))


def non_zero_ranges(filters: Pointer[Float32, _], n_mels: Int) -> List[Int]:
    """The first bin and one past the last bin of each filter that are not zero, for one filter after the other."""
    var ranges = List[Int](capacity=2 * n_mels)
    for mel in range(n_mels):
        var filter = filters.unsafe_offset(mel * N_BINS)
        var first = 0
        var stop = N_BINS
        while first < stop and filter.unsafe_offset(first).unsafe_load() == 0:
            first += 1
        while first < stop and filter.unsafe_offset(stop - 1).unsafe_load() == 0:
            stop -= 1
        ranges.append(first)
        ranges.append(stop)
    return ranges^


def copy_hops(
    hops: Pointer[mut=True, Float32, _], samples: Pointer[Float32, _], start: Int, length: Int
):
    """Sample `start + 160 * hop + j` of the mirrored recording to `hops[j, hop]`.

    Args:
        hops: [160, TILE_HOPS] floats.
        samples: `length` floats.
        start: First sample of the tile's first frame, -200 for the recording's first.
        length: Samples, at least 160.
    """
    var inside = start >= 0 and start + TILE_HOPS * HOP_LENGTH <= length
    for hop in range(TILE_HOPS):
        for j in range(HOP_LENGTH):
            var at = start + hop * HOP_LENGTH + j
            var sample = samples.unsafe_offset(at).unsafe_load() if inside else sample_at(samples, at, length)
            hops.unsafe_offset(j * TILE_HOPS + hop).unsafe_store(sample)


def transform(
    powers: Pointer[mut=True, Power, _],
    columns: Pointer[mut=True, Wave, _],
    hops: Pointer[Float32, _],
    tables: Tables,
):
    """The power spectrum of LANES frames.

    Args:
        powers: [201], the result.
        columns: Scratch of [9, 25, 2]: real and imaginary parts of the transformed columns, times their twiddles.
        hops: [160, TILE_HOPS] samples as `copy_hops` leaves them.
        tables: Window, cosines and sines.
    """
    var window = tables.window.unsafe_ptr()
    var cosines = tables.cosines.unsafe_ptr()
    var sines = tables.sines.unsafe_ptr()
    for column in range(COLUMNS):
        var x = Array[Wave, ROWS](fill=0)
        comptime for row in range(ROWS):
            var n = COLUMNS * row + column
            var sample = hops.unsafe_offset(n % HOP_LENGTH * TILE_HOPS + n // HOP_LENGTH).unsafe_load[width=LANES]()
            x[row] = sample.cast[DType.float64]() * window.unsafe_offset(n).unsafe_load()
        # rows r and 16 - r share a cosine, and a sine up to its sign
        comptime for row in range(1, ROWS // 2):
            var mirrored = x[ROWS - row]
            x[ROWS - row] = x[row] - mirrored
            x[row] += mirrored
        comptime for k1 in range(ROWS // 2 + 1):
            var real = x[0] + x[ROWS // 2] if k1 % 2 == 0 else x[0] - x[ROWS // 2]
            var minus_imag = Wave(0)
            comptime for row in range(1, ROWS // 2):
                comptime root = COLUMNS * (row * k1 % ROWS)
                real = x[row].fma(cosines.unsafe_offset(root).unsafe_load(), real)
                minus_imag = x[ROWS - row].fma(sines.unsafe_offset(root).unsafe_load(), minus_imag)
            var c = cosines.unsafe_offset(column * k1).unsafe_load()
            var s = sines.unsafe_offset(column * k1).unsafe_load()
            var to = columns.unsafe_offset(2 * (k1 * COLUMNS + column))
            to[] = real * c - minus_imag * s
            to.unsafe_offset(1)[] = -(minus_imag * c + real * s)

    for k1 in range(ROWS // 2 + 1):
        var z = columns.unsafe_offset(2 * k1 * COLUMNS)
        comptime half = COLUMNS // 2
        var sum_real = Array[Wave, half + 1](fill=0)
        var sum_imag = Array[Wave, half + 1](fill=0)
        var difference_real = Array[Wave, half + 1](fill=0)
        var difference_imag = Array[Wave, half + 1](fill=0)
        sum_real[0] = z[]
        sum_imag[0] = z.unsafe_offset(1)[]
        comptime for m in range(1, half + 1):
            var a = z.unsafe_offset(2 * m)
            var b = z.unsafe_offset(2 * (COLUMNS - m))
            sum_real[m] = a[] + b[]
            sum_imag[m] = a.unsafe_offset(1)[] + b.unsafe_offset(1)[]
            difference_real[m] = a[] - b[]
            difference_imag[m] = a.unsafe_offset(1)[] - b.unsafe_offset(1)[]
        comptime for k2 in range(half + 1):
            var c_real = sum_real[0]
            var c_imag = sum_imag[0]
            var s_real = Wave(0)
            var s_imag = Wave(0)
            comptime for m in range(1, half + 1):
                comptime root = ROWS * (m * k2 % COLUMNS)
                var c = cosines.unsafe_offset(root).unsafe_load()
                var s = sines.unsafe_offset(root).unsafe_load()
                c_real = sum_real[m].fma(c, c_real)
                c_imag = sum_imag[m].fma(c, c_imag)
                s_real = difference_real[m].fma(s, s_real)
                s_imag = difference_imag[m].fma(s, s_imag)
            store_power(powers, k1 + ROWS * k2, c_real + s_imag, c_imag - s_real)
            comptime if k2 > 0:
                store_power(powers, k1 + ROWS * (COLUMNS - k2), c_real - s_imag, c_imag + s_real)


@always_inline
def store_power(powers: Pointer[mut=True, Power, _], k: Int, real: Wave, imag: Wave):
    """Bins above 200 mirror those below: of the columns 0 and 8 either is computed, and they are equal."""
    powers.unsafe_offset(min(k, N_FFT - k))[] = real.fma(real, imag * imag).cast[DType.float32]()
