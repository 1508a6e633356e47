"""A recording cut at its pauses into windows that are decoded independently of each other.

It does for batches what faster-whisper does with a network that detects voices, from the loudness alone.
"""

import numpy as np

from whisper2max.runtime.features import FRAMES_PER_SECOND

# Decades of power. Speakers at different distances differ by less.
SILENCE_BELOW_LOUDEST = 4.0
# Closed lips within a word take a tenth of a second, pauses of speakers more than two.
SMOOTHED_FRAMES = round(0.4 * FRAMES_PER_SECOND)
MARGIN_FRAMES = round(0.3 * FRAMES_PER_SECOND)
# A pause in the middle of a window must be quieter by this than one at its end, in decades.
PRICE_OF_HALF_A_WINDOW = 1.0


def cut_at_pauses(loudness: np.ndarray, sounding: np.ndarray, n_frames: int) -> list[tuple[int, int]]:
    """Windows that hold all sound of a recording and end at its quietest places, as long as fits.

    Silence between windows is left out: what is much quieter than the loudest of the recording, and what is nothing.

    Args:
        loudness: float32 [frames], the mean log-mel power of each frame, without a floor that follows the loudest.
        sounding: bool [frames], whether a frame holds more than digital silence.
        n_frames: most frames of a window.

    Returns:
        First frame and end of each window, in order and without overlap; none for digital silence.
    """
    if not loudness.size:
        return []
    smoothed = _smoothed(loudness)
    # smoothed sound reaches into the zeros beside it
    sounding = np.flatnonzero((smoothed > smoothed.max() - SILENCE_BELOW_LOUDEST) & sounding)
    windows, start = [], 0
    while (following := sounding[np.searchsorted(sounding, start) :]).size:
        start = max(start, int(following[0]) - MARGIN_FRAMES)
        end = min(int(following[-1]) + 1 + MARGIN_FRAMES, loudness.size)
        cut = end if end - start <= n_frames else _quietest(smoothed, start + n_frames // 2, start + n_frames)
        last = int(sounding[np.searchsorted(sounding, cut) - 1])
        windows.append((start, min(cut, last + 1 + MARGIN_FRAMES)))
        start = cut
    return windows


def _quietest(loudness: np.ndarray, first: int, last: int) -> int:
    """The frame to cut at, from first to last; the later the better."""
    price = np.linspace(PRICE_OF_HALF_A_WINDOW, 0.0, last + 1 - first)
    return first + int((loudness[first : last + 1] + price).argmin())


def _smoothed(loudness: np.ndarray) -> np.ndarray:
    weights = np.hanning(SMOOTHED_FRAMES + 1).astype(np.float32)
    padded = np.pad(loudness, SMOOTHED_FRAMES // 2, mode="edge")
    return np.convolve(padded, weights / weights.sum(), mode="valid")
