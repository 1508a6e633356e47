"""What is measured: each figure is one function that a worker calls in a process of its own."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STEPS = 64
ENCODER_RUNS, SHORT_RUNS = 3, 3
COUNTRY = 1941  # " country" in the multilingual vocabulary
SHORT_CLIP, LONG_CLIP = "en_jfk.mp3", "en_long_bush_gb0_127s.wav"


@dataclass(frozen=True)
class Figure:
    """One column of the table.

    Attributes:
        title: head of the column, with the unit.
        unit: "ms", "s", "MB" or "%".
        meaning: what is timed, for the legend.
        measure: given the peer and the folder of clips, gives {"value": .., "texts": {clip: text}}, where value is in
            the unit; None where the figure comes from elsewhere.
        decimals: digits after the point in the table.
        every_round: whether it is measured in every round, or in the first alone.
        source: the figure whose workers give this one too.
    """

    title: str
    unit: str
    meaning: str
    measure: Callable | None
    decimals: int = 2
    every_round: bool = True
    source: str | None = None


def load(path: Path):
    """float32 [samples] at 16 kHz."""
    from whisper2max.runtime.audio import load_audio

    return load_audio(path)


def encoder(peer, audio: Path) -> dict:
    """Milliseconds for the encoder on the first window of the short clip."""
    import numpy as np

    features = peer.features(load(audio / SHORT_CLIP))
    states = peer.states(peer.encode(features))
    if states is not None and (states.shape[:2] != (1, 1500) or not np.isfinite(states).all()):
        raise RuntimeError(f"the encoder gave {states.dtype} {list(states.shape)}, or values that are no numbers")
    return {"value": 1e3 * median_seconds(lambda: peer.encode(features), ENCODER_RUNS)}


def step(peer, audio: Path) -> dict:
    """Milliseconds for a greedy token."""
    return steps(peer, audio, 1)


def five(peer, audio: Path) -> dict:
    """Milliseconds for a step of five sequences."""
    return steps(peer, audio, 5)


def steps(peer, audio: Path, rows: int) -> dict:
    """Milliseconds for a step of `rows` sequences, and what row 0 says."""
    features = peer.features(load(audio / SHORT_CLIP))
    peer.steps(features, rows, STEPS // 4)
    seconds, tokens = peer.steps(features, rows, STEPS)
    if COUNTRY not in tokens:
        raise RuntimeError(f"the 11 s clip ends with the word country, token {COUNTRY}, and {tokens} lacks it")
    return {"value": 1e3 * seconds, "tokens": tokens}


def short(peer, audio: Path) -> dict:
    """Seconds for the short clip."""
    samples = load(audio / SHORT_CLIP)
    texts = {peer.transcribe(samples)}
    seconds = median_seconds(lambda: texts.add(peer.transcribe(samples)), SHORT_RUNS)
    if len(texts) > 1:
        raise RuntimeError(f"the same clip gave different texts: {sorted(texts)}")
    return {"value": seconds, "texts": {SHORT_CLIP: texts.pop()}}


def long(peer, audio: Path, **options) -> dict:
    """Seconds for the long clip, after the short one."""
    samples = load(audio / LONG_CLIP)
    peer.transcribe(load(audio / SHORT_CLIP), **options)
    started = time.perf_counter()
    text = peer.transcribe(samples, **options)
    return {"value": time.perf_counter() - started, "texts": {LONG_CLIP: text}}


def beam(peer, audio: Path) -> dict:
    """Seconds for the long clip with five beams."""
    return long(peer, audio, beam_size=5)


def batched(peer, audio: Path) -> dict:
    """Seconds for the long clip, eight windows together."""
    return long(peer, audio, batch_size=8)


def cold(peer, audio: Path) -> dict:
    """The text of the short clip; whoever started the process has the time."""
    return {"value": None, "texts": {SHORT_CLIP: peer.transcribe_file(audio / SHORT_CLIP)}}


def wer(peer, audio: Path) -> dict:
    """The text of every English clip whose transcript is trusted; the rate is computed by `score.py`."""
    from clips import trusted_english

    texts = {clip.file: peer.transcribe(load(audio / clip.file)) for clip in trusted_english(audio)}
    return {"value": None, "texts": texts}


def median_seconds(call: Callable[[], object], runs: int) -> float:
    """Median wall seconds; whoever calls has warmed up."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


FIGURES = {
    "encoder": Figure("encoder, ms", "ms", "encoder of one 30 s window, spectrogram given", encoder, decimals=0),
    "step": Figure("step, ms", "ms", "one decode step and the choice of its token", step, decimals=1),
    "five": Figure("step of 5, ms", "ms", "one decode step of five sequences together", five, decimals=1),
    "short": Figure("11 s, s", "s", "the 11 s clip end to end, greedy, model loaded", short),
    "long": Figure("127 s, s", "s", "the 127 s speech end to end, greedy, model loaded", long),
    "beam": Figure("127 s beam 5, s", "s", "the 127 s speech with five beams", beam),
    "batched": Figure("127 s batch 8, s", "s", "the 127 s speech, windows decoded eight together", batched),
    "cold": Figure("cold start, s", "s", "from the command to the transcript of the 11 s clip, fresh process", cold),
    "memory": Figure(
        "peak, MB", "MB", "largest resident size of the process that did the 127 s speech greedily", None,
        decimals=0, source="long",
    ),
    "wer": Figure(
        "WER, %", "%", "word error rate over the trusted English clips after Whisper's normalisation, greedy", wer,
        every_round=False,
    ),
}  # fmt: skip
