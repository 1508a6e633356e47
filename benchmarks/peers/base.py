"""What every peer can be asked, so that one worker measures all of them.

The options are the same everywhere: English is given, temperature 0 without fallback, every window decoded
without the text before it, non-speech tokens suppressed, with timestamps.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

# The multilingual vocabulary of 51,865 tokens, which the packaged `base` has.
END_OF_TEXT = 50257
START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS = 50258, 50259, 50359, 50363
PROMPT = (START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS)

SAMPLES_IN_WINDOW = 480_000  # 30 s at 16 kHz
WARM_UP_STEPS = 3


class NotOffered(Exception):
    """The peer has no such feature, or no way to time it alone; the message says which."""


class Peer:
    """One program with the weights of Whisper base, loaded.

    Args:
        models: the folder that `prepare` filled.
        threads: how many CPU threads to compute with.
        variant: the data type, or the artifact.
    """

    def __init__(self, models: Path, threads: int, variant: str | Path):
        raise NotImplementedError

    @classmethod
    def prepare(cls, models: Path, variant: str | Path) -> None:
        """Write what the constructor reads, where it is missing; not timed."""
        raise NotImplementedError

    def features(self, samples: np.ndarray) -> object:
        """Encoder input of the first window of float32 [samples], padded to 30 s."""
        raise NotOffered("the log-mel spectrogram cannot be computed alone")

    def encode(self, features: object) -> object:
        """Audio states of one window, finished when this returns."""
        raise NotOffered("the encoder cannot be run alone")

    def states(self, encoded: object) -> np.ndarray | None:
        """What `encode` gave as float32 [1, 1500, n_audio_state]; None where it cannot be read."""
        raise NotImplementedError

    def steps(self, features: object, rows: int, count: int) -> tuple[float, list[int]]:
        """Decode `count` tokens of one window greedily in each of `rows` sequences; END_OF_TEXT does not stop it.

        Returns:
            Seconds for a step of all rows, the choice of the next token included; and the ids that row 0 got.
        """
        raise NotOffered("a decode step cannot be run alone")

    def transcribe(self, samples: np.ndarray, beam_size: int = 1, batch_size: int = 1) -> str:
        """The text of float32 [samples] at 16 kHz."""
        raise NotImplementedError

    def transcribe_file(self, path: Path) -> str:
        """The text of an audio file; peers with a reader of their own use that."""
        from whisper2max.runtime.audio import load_audio

        return self.transcribe(load_audio(path))


def window(samples: np.ndarray) -> np.ndarray:
    """The first 30 s, padded with silence: float32 [480000]."""
    samples = samples[:SAMPLES_IN_WINDOW]
    return np.pad(samples, (0, SAMPLES_IN_WINDOW - samples.size))


def run_steps(
    step: Callable[[np.ndarray, int], np.ndarray], tokens: np.ndarray, position: int, count: int
) -> tuple[float, list[int]]:
    """Median seconds of `count` greedy steps, the first three dropped, and the ids of row 0.

    Args:
        step: takes int64 [rows] and the position they go to, gives the next int64 [rows].
        tokens: int64 [rows], the first sampled token, not decoded yet.
        position: where `tokens` go.
    """
    seconds, sampled = [], [int(tokens[0])]
    for number in range(count - 1):
        started = time.perf_counter()
        tokens = step(tokens, position + number)
        seconds.append(time.perf_counter() - started)
        sampled.append(int(tokens[0]))
    return statistics.median(seconds[WARM_UP_STEPS:]), sampled
