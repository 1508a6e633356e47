"""The speech that a comparison runs on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whisper2max.runtime.audio import load_audio
from whisper2max.samples import SPEECH


def load_inputs(audio: Sequence[str | Path]) -> list[tuple[str, np.ndarray]]:
    """(file name, float32 samples at 16 kHz) of the files given, or of the sample in the package."""
    return [(Path(path).name, load_audio(path)) for path in (audio or [SPEECH])]
