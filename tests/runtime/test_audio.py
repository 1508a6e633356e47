import io
import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from whisper2max.core.errors import AudioError
from whisper2max.runtime.audio import load_audio


def tone(rate: int, channels: int = 1, seconds: float = 0.5) -> np.ndarray:
    """int16 [samples, channels]: 440 Hz in the first channel, silence in the others."""
    samples = np.zeros((int(rate * seconds), channels), np.int16)
    samples[:, 0] = 12000 * np.sin(2 * np.pi * 440 / rate * np.arange(len(samples)))
    return samples


def wav_bytes(samples: np.ndarray, rate: int) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return content.getvalue()


def encoded(container_format: str, codec: str, rate: int, seconds: float = 0.5) -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(tone(rate, 2, seconds).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return content.getvalue()


def test_16_bit_mono_at_16_khz_is_taken_as_it_is():
    samples = tone(16000)
    loaded = load_audio(wav_bytes(samples, 16000))
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, samples[:, 0] / np.float32(32768))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled(rate):
    loaded = load_audio(wav_bytes(tone(rate, seconds=1.0), rate))
    assert abs(loaded.size - 16000) <= 16
    middle = slice(4000, 12000)
    expected = 12000 / 32768 * np.sin(2 * np.pi * 440 / 16000 * np.arange(loaded.size))
    assert np.abs(loaded[middle] - expected[middle]).max() < 2e-3


def test_stereo_is_mixed_down():
    samples = tone(16000, channels=2)
    np.testing.assert_allclose(load_audio(wav_bytes(samples, 16000)), samples.mean(axis=1) / 32768, atol=1 / 32768)


@pytest.mark.parametrize(
    ("container_format", "codec", "rate"),
    [
        ("flac", "flac", 44100),
        ("mp3", "libmp3lame", 44100),
        ("ogg", "libopus", 48000),
        ("webm", "libopus", 48000),
        ("mp4", "aac", 48000),
        ("aiff", "pcm_s16be", 22050),
    ],
)
def test_formats(container_format, codec, rate):
    loaded = load_audio(encoded(container_format, codec, rate, seconds=1.0))
    assert 15900 < loaded.size < 18000
    spectrum = np.abs(np.fft.rfft(loaded[2000:14000]))
    assert abs(spectrum.argmax() * 16000 / 12000 - 440) < 2


def test_path_bytes_and_file_give_the_same(tmp_path):
    content = encoded("flac", "flac", 44100)
    path = tmp_path / "a:tone 1.flac"
    path.write_bytes(content)
    expected = load_audio(content)
    np.testing.assert_array_equal(load_audio(path), expected)
    np.testing.assert_array_equal(load_audio(str(path)), expected)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(load_audio(file), expected)


def test_a_stream_may_change_its_rate():
    joined = load_audio(encoded("mp3", "libmp3lame", 44100, 1.0) + encoded("mp3", "libmp3lame", 22050, 1.0))
    assert 31000 < joined.size < 37000


@pytest.mark.parametrize("container_format", ["mp4", "adts"])
def test_damaged_packets_are_left_out_and_said(caplog, container_format):
    content = bytearray(encoded(container_format, "aac", 48000, seconds=3.0))
    middle = len(content) // 2
    content[middle : middle + 600] = b"\xff" * 600
    assert 45000 < load_audio(bytes(content)).size < 48000
    assert "damaged packets left out: " in caplog.text


def video_without_sound() -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.mp3", b"", "0 bytes"),
        ("notes.mp3", b"These are the minutes of a meeting, not its recording.\n" * 100, "cannot be read as audio"),
        ("page.wav", b"<!doctype html><html><body>404</body></html>", "cannot be read as audio"),
        ("list.mp3", b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n", "cannot be read as audio"),
        ("header.wav", wav_bytes(np.zeros((0, 1), np.int16), 16000), "0 samples"),
        ("film.mkv", video_without_sound(), "no audio stream"),
    ],
)
def test_unusable_files(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError, match=said) as error:
        load_audio(path)
    assert name in str(error.value)
    with pytest.raises(AudioError, match=said):
        load_audio(content)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(AudioError, match="nowhere.mp3 does not exist"):
        load_audio(tmp_path / "nowhere.mp3")
    with pytest.raises(AudioError, match="is a directory"):
        load_audio(tmp_path)


def test_samples_pass_through():
    samples = np.zeros(16000, np.float32)
    assert load_audio(samples) is samples


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros((2, 100), np.float32), "one dimension"),
        (np.zeros(100, np.int16), "divide by 32768"),
        (np.zeros(100), "float64"),
        (np.zeros(0, np.float32), "0 samples"),
        (np.array([0.0, np.nan], np.float32), "not-a-number"),
        ([0.0, 0.1], "given as list"),
        (io.StringIO("text"), "text mode"),
    ],
)
def test_unusable_samples(samples, said):
    with pytest.raises(AudioError, match=said):
        load_audio(samples)


def test_every_shared_clip(clips):
    for name, row in clips.items():
        loaded = load_audio(row["path"])
        assert abs(loaded.size / 16000 - float(row["duration_s"])) < 0.015, name
        assert np.abs(loaded).max() <= 1.0
