"""The frames that a spectrogram is made of, and how their transform is split, on a CPU and on a device."""

comptime N_FFT = 400
comptime HOP_LENGTH = 160
comptime N_BINS = N_FFT // 2 + 1
comptime LOWEST_POWER = Float32(1e-10)

comptime ROWS = 16
comptime COLUMNS = 25
"""400 = 16 * 25."""


@always_inline
def sample_at(samples: Pointer[Float32, _], at: Int, length: Int) -> Float32:
    """Sample `at` of the recording, which is mirrored at both ends.

    Args:
        samples: `length` floats.
        at: Any number; those before 0 and from `length` on are of the mirrored signal.
        length: At least 2.
    """
    var mirrored = at
    if not 0 <= at < length:
        mirrored %= 2 * (length - 1)
        mirrored = min(mirrored, 2 * (length - 1) - mirrored)
    return samples.unsafe_offset(mirrored).unsafe_load()
