"""The speech that a comparison runs on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whisper2max.printable import printable
from whisper2max.runtime.audio import load_audio
from whisper2max.samples import SPEECH


def load_inputs(audio: Sequence[str | Path]) -> list[tuple[str, np.ndarray]]:
    """(file name, float32 samples at 16 kHz) of the files given, or of the sample in the package.

    Names are made printable: they go into reports and into the manifest, which are text.
    """
    return [(printable(Path(path).name), load_audio(path)) for path in (audio or [SPEECH])]
