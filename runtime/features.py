"""Log-mel spectrograms, the numbers of openai-whisper and of transformers' WhisperFeatureExtractor."""

from functools import cache

import numpy as np

from whisper2max.runtime.audio import SAMPLE_RATE

N_FFT = 400
HOP_LENGTH = 160
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH

LOWEST_POWER = 1e-10
SILENCE = -10.0
"""log10 of the power that counts as none."""
FRAMES_AT_A_TIME = 2048


@cache
def mel_filters(n_mels: int) -> np.ndarray:
    """Triangular filters on Slaney's mel scale from 0 to 8000 Hz, each of area 1 (librosa's `filters.mel`).

    Returns:
        float32 [n_mels, 201], to multiply with the power spectrum of a frame. Read-only: it is shared.
    """
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges = _mel_to_hertz(np.linspace(0.0, _hertz_to_mel(SAMPLE_RATE / 2), n_mels + 2))
    below, centre, above = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - below) / (centre - below)
    falling = (above - bins) / (above - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (above - below))
    filters = filters.astype(np.float32)
    filters.flags.writeable = False
    return filters


# Slaney's scale: 3 mel per 200 Hz up to 1000 Hz, from there 27 mel for a factor of 6.4
_BREAK_HERTZ, _BREAK_MEL, _LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27.0


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _BREAK_HERTZ:
        return hertz * _BREAK_MEL / _BREAK_HERTZ
    return _BREAK_MEL + np.log(hertz / _BREAK_HERTZ) / _LOG_STEP


def _mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    linear = mel * (_BREAK_HERTZ / _BREAK_MEL)
    return np.where(mel < _BREAK_MEL, linear, _BREAK_HERTZ * np.exp((mel - _BREAK_MEL) * _LOG_STEP))


def log_mel(samples: np.ndarray, n_mels: int, padding: int = 0) -> np.ndarray:
    """The log-mel spectrogram of a recording of any length, for who has no engine; `Engine.log_mel` is the fast way.

    Args:
        samples: float32 [samples], mono, 16 kHz.
        n_mels: mel channels, 80 or 128.
        padding: zero samples to add at the end.

    Returns:
        float32 [n_mels, (samples + padding) // 160]: a frame each 10 ms, centred on its time.
    """
    powers = log_mel_powers(samples, n_mels, padding)
    return scaled(powers, powers.max(initial=SILENCE))


def scaled(powers: np.ndarray, loudest: float | np.floating) -> np.ndarray:
    """What the encoder hears: log-mel powers above a floor, in units of 40 dB, about -1 to 1.

    Args:
        powers: float32, as `log_mel_powers` gives them.
        loudest: the largest value of the whole recording; the floor is 8 decades below it, as openai-whisper takes
            it before it cuts windows.
    """
    spectrogram = np.maximum(powers, np.float32(loudest) - np.float32(8.0))
    spectrogram += np.float32(4.0)
    spectrogram /= np.float32(4.0)
    return spectrogram


def log_mel_powers(samples: np.ndarray, n_mels: int, padding: int = 0) -> np.ndarray:
    """log10 of the mel power of every frame, at least `SILENCE`; arguments and shape as for `log_mel`.

    The transform runs in float64, as in transformers' numpy path: in float32 the quiet bins beside loud ones are off by
    more than 1e-5.
    """
    n_frames = (samples.size + padding) // HOP_LENGTH
    mel = np.full((n_mels, n_frames), SILENCE, dtype=np.float32)
    half = N_FFT // 2
    # a frame beyond this one sees nothing but padding
    n_heard = min(n_frames, (samples.size + half - 1) // HOP_LENGTH + 1)
    signal = _reflected(samples, padding, half)
    frames = np.lib.stride_tricks.sliding_window_view(signal, N_FFT)[::HOP_LENGTH]
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(N_FFT) / N_FFT)
    filters = mel_filters(n_mels)
    for start in range(0, n_heard, FRAMES_AT_A_TIME):
        stop = min(start + FRAMES_AT_A_TIME, n_heard)
        spectrum = np.fft.rfft(frames[start:stop] * window)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        np.log10(np.maximum(filters @ power.T, LOWEST_POWER), out=mel[:, start:stop])
    return mel


def _reflected(samples: np.ndarray, padding: int, half: int) -> np.ndarray:
    """The padded signal, mirrored at both ends by half a frame; padding that no frame sees is left out."""
    if min(samples.size, padding) > half:  # one copy of a long recording
        silence = np.zeros(min(padding, N_FFT) + half, samples.dtype)
        return np.concatenate([samples[half:0:-1], samples, silence])
    return np.pad(np.pad(samples, (0, padding)), half, mode="reflect")


def pad_or_trim(mel: np.ndarray, n_frames: int) -> np.ndarray:
    """The first `n_frames` frames of a spectrogram, or all of them and zeros: [n_mels, n_frames]."""
    if mel.shape[-1] >= n_frames:
        return np.ascontiguousarray(mel[..., :n_frames])
    return np.pad(mel, [(0, 0)] * (mel.ndim - 1) + [(0, n_frames - mel.shape[-1])])
