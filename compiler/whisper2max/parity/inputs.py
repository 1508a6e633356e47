"""The speech that a comparison runs on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whisper2max.core.printable import printable
from whisper2max.runtime.audio import SAMPLE_RATE, open_sound
from whisper2max.samples import SPEECH

# A comparison hears one window: 30 s, and more only where a model has more encoder positions than any published one.
MOST_SECONDS = 600


def load_inputs(audio: Sequence[str | Path]) -> list[tuple[str, np.ndarray]]:
    """(file name, float32 samples at 16 kHz) of the files given, or of the sample in the package: their beginnings.

    Names are made printable: they go into reports and into the manifest, which are text.
    """
    return [(printable(Path(path).name), _beginning(path)) for path in (audio or [SPEECH])]


def _beginning(path: str | Path) -> np.ndarray:
    pieces, n_samples = [], 0
    for piece in open_sound(path).pieces():
        pieces.append(piece)
        n_samples += piece.size
        if n_samples >= MOST_SECONDS * SAMPLE_RATE:
            break
    return np.concatenate(pieces)
