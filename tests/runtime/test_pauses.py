import numpy as np
import pytest

from whisper2max.runtime.audio import load_audio
from whisper2max.runtime.features import log_mel_powers
from whisper2max.runtime.pauses import cut_at_pauses
from whisper2max.runtime.recording import DIGITAL_SILENCE

N_FRAMES = 3000
MARGIN = 40  # frames by which an edge may miss the sound: the margin, and half of what is smoothed


def cut(powers: np.ndarray) -> list[tuple[int, int]]:
    return cut_at_pauses(powers.mean(axis=0), powers.max(axis=0) > DIGITAL_SILENCE, N_FRAMES)


def tones(seconds: float, bursts: list[tuple[float, float]], hum: float = 0.0) -> np.ndarray:
    """A spectrogram of tones like vowels in the seconds given, over noise of the amplitude `hum`."""
    noise = np.random.default_rng(3).standard_normal(round(seconds * 16000))
    voice = 0.1 * (np.arange(noise.size) * 130 / 16000 % 1.0 - 0.5) + 0.005 * noise
    samples = hum * noise
    for start, end in bursts:
        sounding = slice(round(start * 16000), round(end * 16000))
        samples[sounding] += voice[sounding]
    return log_mel_powers(samples.astype(np.float32), 80)


def words(start: float, end: float, pauses: tuple[float, ...] = (), pause: float = 0.6) -> list[tuple[float, float]]:
    """Bursts of 0.4 s with gaps of 0.1 s, as within a sentence, but for longer pauses at some seconds."""
    found, at = [], start
    while at < end:
        if any(place - 0.4 < at < place + pause for place in pauses):
            at += 0.05
            continue
        found.append((at, min(at + 0.4, end)))
        at += 0.5
    return found


def assert_windows(windows: list[tuple[int, int]], n_frames: int) -> None:
    assert all(0 < end - start <= N_FRAMES for start, end in windows)
    edges = [edge for window in windows for edge in window]
    assert edges == sorted(edges) and (not edges or edges[0] >= 0 and edges[-1] <= n_frames)
    assert all(isinstance(edge, int) for edge in edges)


@pytest.mark.parametrize("hum", [0.0, 1e-3, 1e-2], ids=["studio", "room", "street"])
def test_cut_in_the_last_pause_that_fits(hum):
    pauses = (8.0, 19.0, 27.0, 31.0, 48.0, 53.5, 58.0)
    bursts = words(0.0, 70.0, pauses)
    mel = tones(70.0, bursts, hum)
    windows = cut(mel)
    assert_windows(windows, mel.shape[1])
    assert len(windows) == 3
    for (_, end), (start, _), pause in zip(windows, windows[1:], (27.0, 53.5), strict=False):
        assert end - 60 < pause * 100 < start + 60
        assert not [burst for burst in bursts if burst[0] < start / 100 and burst[1] > end / 100]


def test_a_longer_pause_before_gaps_between_words():
    mel = tones(40.0, words(0.0, 40.0, (21.0,)), 1e-3)
    (_, end), (start, _) = cut(mel)
    assert 2060 <= end <= start <= 2160


def test_everything_that_sounds_is_in_a_window():
    bursts = [(3.0, 9.0), (9.5, 27.0), (55.0, 70.0), (71.0, 72.0), (110.0, 139.0)]
    mel = tones(150.0, bursts)
    windows = cut(mel)
    assert_windows(windows, mel.shape[1])
    covered = np.zeros(mel.shape[1], bool)
    for start, end in windows:
        covered[start:end] = True
    for start, end in bursts:
        assert covered[round(start * 100) : round(end * 100)].all()
    assert len(windows) == 3
    for (start, end), first, last in zip(windows, (3.0, 55.0, 110.0), (27.0, 72.0, 139.0), strict=True):
        assert first * 100 - 2 * MARGIN <= start <= first * 100 and last * 100 <= end <= last * 100 + 2 * MARGIN


def test_quiet_speakers_are_kept():
    loud, quiet = tones(20.0, words(0.0, 8.0)), tones(20.0, words(10.0, 20.0))
    mel = np.log10(10.0**loud + 10.0**quiet * 1e-3).astype(np.float32)
    ((start, end),) = cut(mel)
    assert start == 0 and end > 1950


@pytest.mark.parametrize("seconds", [31, 65, 200])
def test_noise_without_pauses(seconds):
    rng = np.random.default_rng(7)
    mel = log_mel_powers((0.1 * rng.standard_normal(seconds * 16000)).astype(np.float32), 80)
    windows = cut(mel)
    assert_windows(windows, mel.shape[1])
    assert windows[0][0] == 0 and windows[-1][1] == mel.shape[1]
    assert all(before[1] == after[0] for before, after in zip(windows, windows[1:], strict=False))
    assert all(end - start > 2500 for start, end in windows[:-1])


def dithered(n_samples: int) -> np.ndarray:
    """What dithering to 16 bits makes of nothing: -1, 0 and 1."""
    rng = np.random.default_rng(7)
    return (np.round(rng.uniform(-0.5, 0.5, n_samples) + rng.uniform(-0.5, 0.5, n_samples)) / 32768).astype(np.float32)


@pytest.mark.parametrize("nothing", [np.zeros(640_000, np.float32), dithered(640_000)], ids=["zeros", "last bit"])
def test_digital_silence_has_no_windows(nothing):
    assert cut(log_mel_powers(nothing, 80)) == []


def test_zeros_beside_loud_sound_are_no_sound():
    """A loud whistle in a few channels: the mean over channels is close to that of the zeros beside it."""
    samples = np.zeros(100 * 16000, np.float32)
    whistle = np.sin(2 * np.pi * 3000 / 16000 * np.arange(5 * 16000))
    samples[90 * 16000 : 95 * 16000] = whistle
    ((start, end),) = cut(log_mel_powers(samples, 80))
    assert 8950 <= start <= 9000 and 9500 <= end <= 9550


@pytest.mark.parametrize("n_samples", [0, 100, 160, 161, 1600, 16000, 480_000])
def test_short_recordings_are_one_window(n_samples):
    rng = np.random.default_rng(7)
    samples = (0.1 * rng.standard_normal(480_000)).astype(np.float32)[:n_samples]
    mel = log_mel_powers(samples, 80, padding=480_000)[:, : n_samples // 160]
    assert cut(mel) == ([(0, n_samples // 160)] if n_samples >= 160 else [])


def test_a_long_speech_is_cut_between_sentences(clips):
    mel = log_mel_powers(load_audio(clips["en_long_bush_gb0_127s.wav"]["path"]), 80)
    windows = cut(mel)
    assert_windows(windows, mel.shape[1])
    assert len(windows) == 5
    loudness = mel.mean(axis=0)
    for _, end in windows[:-1]:
        assert loudness[end - 10 : end + 10].max() < np.median(loudness)
