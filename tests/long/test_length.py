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

# peak memory is that of a fresh process, as the kernel counts it since the program began
PROGRAM = """
import json, os, re, sys, time
import whisper2max

model = whisper2max.load(sys.argv[1])
started = time.monotonic()
segments, info = model.transcribe(sys.argv[2], batch_size=json.loads(sys.argv[3]))
first_pass = time.monotonic() - started
heard = [segment.text for segment, _ in zip(segments, range(int(sys.argv[4])))]
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps([info.duration, info.language, len(heard), first_pass, peak]), flush=True)
os._exit(0)
"""


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


def run(artifact, path: Path, hours: float, batch_size: int | None) -> tuple[str | None, int, float]:
    """Language, number of segments up to 40, and peak memory in MB of a process that transcribes."""
    command = [sys.executable, "-c", PROGRAM, artifact, path, json.dumps(batch_size), "40"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    duration, language, n_segments, first_pass, peak = json.loads(result.stdout)
    print(f"{hours} h, batch_size {batch_size}: {first_pass:.1f} s until the first window is known, peak {peak:.0f} MB")
    assert abs(duration - hours * 3600) < 200
    return language, n_segments, peak


@pytest.mark.parametrize("batch_size", [None, 8])
def test_hours_take_no_more_memory_than_minutes(tiny_en_artifact, recordings, batch_size):
    # longer than what is kept of a recording, so that it is read twice as the long ones are
    *_, short = run(tiny_en_artifact.path, *recordings["short"], batch_size)
    for kind, heard in (("silence", 0), ("speech", 40)):
        language, n_segments, peak = run(tiny_en_artifact.path, *recordings[kind], batch_size)
        assert (language, n_segments) == ("en", heard)
        assert peak < short + MOST_GROWTH_MB


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
