"""The recordings that travel, and what a model hears in them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

SAMPLE = "speech.flac"
SHORT_CLIP, WINDOW_CLIP = "en_jfk.mp3", "en_libri_1272-128104-0004_8k.wav"
"""Of 11.0 and 29.4 s: the second fills a window."""
CLIPS = (SHORT_CLIP, WINDOW_CLIP)
EXPECTED = "expected.json"
"""What was heard of each in float32 on a CPU."""

RATE, WINDOW = 16_000, 480_000
"""Samples in a second and in a window."""


def recordings(folder: Path) -> dict[str, np.ndarray]:
    """float32 [samples] at 16 kHz by name."""
    from whisper2max.runtime.audio import load_audio

    return {name: load_audio(folder / name) for name in (SAMPLE, *CLIPS)}


def window(recording: np.ndarray) -> np.ndarray:
    """The first 30 s, with silence after it where it is shorter: float32 [480000].

    Not the same as a shorter recording, whose spectrogram `transcribe` fills up with zeros, as openai-whisper does;
    transformers fills up the samples, so that all hear the same this way.
    """
    return np.pad(recording[:WINDOW], (0, max(0, WINDOW - recording.size)))


def heard(model, recording: np.ndarray, **options) -> dict:
    """What a model hears in English: {"tokens": ids of all segments, "text"}; options are those of `transcribe`."""
    segments = list(model.transcribe(recording, language="en", **options)[0])
    tokens = [token for segment in segments for token in segment.tokens]
    return {"tokens": tokens, "text": "".join(segment.text for segment in segments)}


def heard_in_turn(model, recording: np.ndarray) -> dict:
    """What is heard in a window, and in the rest of it where its text ends before; no text conditions another."""
    return heard(model, window(recording), condition_on_previous_text=False)


def long_recording(pieces: dict[str, np.ndarray], windows: int) -> np.ndarray:
    """The recordings in turn, again and again, until they fill so many windows: float32 [windows * 480000]."""
    joined = np.concatenate(list(pieces.values()))
    return np.resize(joined, windows * WINDOW)


def different_windows(pieces: dict[str, np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Windows of speech of which no two are the same, float32 [480000] each."""
    joined = np.concatenate(list(pieces.values()))
    for number in range(count):
        yield np.resize(np.roll(joined, -number * 7919), WINDOW)
