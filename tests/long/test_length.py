"""Recordings of any length: memory does not grow, and what is heard does not depend on how it is read."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import whisper2max
from whisper2max.runtime import recording
from whisper2max.runtime.audio import SAMPLE_RATE

HOURS = {"silence": 10, "speech": 2}  # of speech it takes minutes to make ten
MOST_MB = 600

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


@pytest.fixture(scope="module")
def base_int8(tmp_path_factory):
    artifact = whisper2max.convert(size="base", dtype="int8", output=tmp_path_factory.mktemp("int8") / "base-int8")
    assert artifact.verified
    return artifact.path


def long_flac(path, samples: np.ndarray, hours: float) -> None:
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


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("kind", HOURS)
def test_hours_take_no_more_memory_than_minutes(base_int8, clips, tmp_path, kind, batch_size):
    speech = next(clip for clip in clips if clip.name.startswith("en_long")).samples
    samples = np.zeros(60 * SAMPLE_RATE, np.int16) if kind == "silence" else np.round(speech * 32768).astype(np.int16)
    long_flac(tmp_path / "long.flac", samples, HOURS[kind])
    command = [sys.executable, "-c", PROGRAM, base_int8, tmp_path / "long.flac", json.dumps(batch_size), "40"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    duration, language, n_segments, first_pass, peak = json.loads(result.stdout)
    how = f"{HOURS[kind]} h of {kind}, batch_size {batch_size}"
    print(f"{how}: {first_pass:.1f} s until the language is known, peak {peak:.0f} MB")
    assert abs(duration - HOURS[kind] * 3600) < 200
    assert (language, n_segments) == ((None, 0) if kind == "silence" else ("en", 40))
    assert peak < MOST_MB


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
