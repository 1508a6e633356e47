"""Recordings of any length: memory does not grow, and what is heard does not depend on how it is read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from whisper2max.runtime import recording
from whisper2max.runtime.audio import SAMPLE_RATE

MOST_GROWTH_MB = 100

def long_flac(path: Path, samples: np.ndarray, hours: float) -> None:
    """The samples again and again, as flac; int16 [n] at 16 kHz."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono", options={"compression_level": "0"})
        position, end = 0, int(hours * 3600 * SAMPLE_RATE)
        while position < end:
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, position
            container.mux(stream.encode(frame))
            position += samples.size
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def recordings(clips, tmp_path_factory) -> dict[str, tuple[Path, float]]:
    """Path and hours of a short recording and of long ones."""
    speech = next(clip for clip in clips if clip.name.startswith("en_long")).samples
    speech, silence = np.round(speech * 32768).astype(np.int16), np.zeros(60 * SAMPLE_RATE, np.int16)
    folder, made = tmp_path_factory.mktemp("long"), {}
    for name, samples, hours in (("short", speech, 0.2), ("silence", silence, 10), ("speech", speech, 1)):
        made[name] = folder / f"{name}.flac", hours
        long_flac(made[name][0], samples, hours)
    return made


def run(script: Path, artifact, recording: Path, hours: float, batch_size: int | None) -> dict:
    """Figures of a process that transcribes the beginning of a recording."""
    command = [sys.executable, script, artifact, recording]
    command += [] if batch_size is None else ["--batch_size", str(batch_size)]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(
        f"{hours} h, batch_size {batch_size}: {figures['first_window']:.1f} s until the first window is known, "
        f"peak {figures['peak_mb']:.0f} MB"
    )
    assert abs(figures["duration"] - hours * 3600) < 200
    return figures


@pytest.mark.parametrize("batch_size", [None, 8])
def test_hours_take_no_more_memory_than_minutes(tiny_en_artifact, recordings, repository, batch_size):
    about = repository / "benchmarks" / "long_recording.py", tiny_en_artifact.path
    # longer than what is kept of a recording, so that it is read twice as the long ones are
    short = run(*about, *recordings["short"], batch_size)
    for kind, heard in (("silence", 0), ("speech", 40)):
        figures = run(*about, *recordings[kind], batch_size)
        assert (figures["language"], figures["segments"]) == ("en", heard)
        assert figures["peak_mb"] < short["peak_mb"] + MOST_GROWTH_MB


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_recording_that_is_read_twice_gives_the_same_tokens(tiny_en, clips, monkeypatch, batch_size):
    samples = next(clip for clip in clips if clip.name.startswith("en_long")).samples

    def said():
        segments, _ = tiny_en.transcribe(samples, batch_size=batch_size)
        return [(segment.start, segment.end, segment.tokens, segment.avg_logprob) for segment in segments]

    kept = said()
    monkeypatch.setattr(recording, "KEPT_SECONDS", 0)
    monkeypatch.setattr(recording, "BLOCK_FRAMES", 1700)
    assert said() == kept
