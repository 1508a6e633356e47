import numpy as np
import pytest

from whisper2max.runtime.audio import load_audio
from whisper2max.runtime.features import log_mel
from whisper2max.runtime.pauses import DIGITAL_SILENCE, cut_at_pauses

N_FRAMES = 3000
MARGIN = 40  # frames by which an edge may miss the sound: the margin, and half of what is smoothed


def tones(seconds: float, bursts: list[tuple[float, float]], hum: float = 0.0) -> np.ndarray:
    """A spectrogram of tones like vowels in the seconds given, over noise of the amplitude `hum`."""
    noise = np.random.default_rng(3).standard_normal(round(seconds * 16000))
    voice = 0.1 * (np.arange(noise.size) * 130 / 16000 % 1.0 - 0.5) + 0.005 * noise
    samples = hum * noise
    for start, end in bursts:
        sounding = slice(round(start * 16000), round(end * 16000))
        samples[sounding] += voice[sounding]
    return log_mel(samples.astype(np.float32), 80)


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
    windows = cut_at_pauses(mel, N_FRAMES)
    assert_windows(windows, mel.shape[1])
    assert len(windows) == 3
    for (_, end), (start, _), pause in zip(windows, windows[1:], (27.0, 53.5), strict=False):
        assert end - 60 < pause * 100 < start + 60
        assert not [burst for burst in bursts if burst[0] < start / 100 and burst[1] > end / 100]


def test_a_longer_pause_before_gaps_between_words():
    mel = tones(40.0, words(0.0, 40.0, (21.0,)), 1e-3)
    (_, end), (start, _) = cut_at_pauses(mel, N_FRAMES)
    assert 2060 <= end <= start <= 2160


def test_everything_that_sounds_is_in_a_window():
    bursts = [(3.0, 9.0), (9.5, 27.0), (55.0, 70.0), (71.0, 72.0), (110.0, 139.0)]
    mel = tones(150.0, bursts)
    windows = cut_at_pauses(mel, N_FRAMES)
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
    power = 10.0 ** (4.0 * loud - 4.0) + 10.0 ** (4.0 * quiet - 4.0) * 1e-3
    mel = np.log10(power).astype(np.float32)
    mel = (np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0
    ((start, end),) = cut_at_pauses(mel, N_FRAMES)
    assert start == 0 and end > 1950


@pytest.mark.parametrize("seconds", [31, 65, 200])
def test_noise_without_pauses(seconds):
    rng = np.random.default_rng(7)
    mel = log_mel((0.1 * rng.standard_normal(seconds * 16000)).astype(np.float32), 80)
    windows = cut_at_pauses(mel, N_FRAMES)
    assert_windows(windows, mel.shape[1])
    assert windows[0][0] == 0 and windows[-1][1] == mel.shape[1]
    assert all(before[1] == after[0] for before, after in zip(windows, windows[1:], strict=False))
    assert all(end - start > 2500 for start, end in windows[:-1])


@pytest.mark.parametrize("amplitude", [0.0, 0.5 / 32768], ids=["zeros", "last bit"])
def test_digital_silence_has_no_windows(amplitude):
    rng = np.random.default_rng(7)
    samples = (amplitude * rng.uniform(-1, 1, 40 * 16000)).astype(np.float32)
    assert log_mel(samples, 80).mean() < DIGITAL_SILENCE
    assert cut_at_pauses(log_mel(samples, 80), N_FRAMES) == []


@pytest.mark.parametrize("n_samples", [0, 100, 160, 161, 1600, 16000, 480_000])
def test_short_recordings_are_one_window(n_samples):
    rng = np.random.default_rng(7)
    samples = (0.1 * rng.standard_normal(480_000)).astype(np.float32)[:n_samples]
    mel = log_mel(samples, 80, padding=480_000)[:, : n_samples // 160]
    assert cut_at_pauses(mel, N_FRAMES) == ([(0, n_samples // 160)] if n_samples >= 160 else [])


def test_a_long_speech_is_cut_between_sentences(clips):
    mel = log_mel(load_audio(clips["en_long_bush_gb0_127s.wav"]["path"]), 80)
    windows = cut_at_pauses(mel, N_FRAMES)
    assert_windows(windows, mel.shape[1])
    assert len(windows) == 5
    loudness = mel.mean(axis=0)
    for _, cut in windows[:-1]:
        assert loudness[cut - 10 : cut + 10].max() < np.median(loudness)
