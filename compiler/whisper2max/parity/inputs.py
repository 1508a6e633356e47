"""What both sides of a comparison are fed: the speech, and the tokens that torch hears in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.printable import printable
from whisper2max.parity.report import Input
from whisper2max.runtime.audio import SAMPLE_RATE, open_sound
from whisper2max.runtime.features import HOP_LENGTH
from whisper2max.runtime.tokens import Tokenizer
from whisper2max.samples import SPEECH

# A comparison hears one window: 30 s, and more only where a model has more encoder positions than any published one.
MOST_SECONDS = 600
TOKEN_LIMIT = 64


@dataclass(frozen=True)
class Window:
    """The first 30 s of a recording.

    Attributes:
        name: file name.
        seconds: of the recording that are in it.
        samples: float32 [480000] at 16 kHz, zeros after the recording's end.
    """

    name: str
    seconds: float
    samples: np.ndarray


@dataclass(frozen=True)
class Transcript:
    """What torch hears in a window, as tokens to feed to a decoder.

    Attributes:
        prompt: start of transcript, language, task, no timestamps.
        greedy: what torch float32 continues with, at most TOKEN_LIMIT tokens, with end of text if it came.
        n_text_ctx: positions of the model.
    """

    prompt: list[int]
    greedy: list[int]
    n_text_ctx: int

    @property
    def forced(self) -> list[int]:
        """The part that is a transcript: prompt and greedy tokens without the last."""
        return self.prompt + self.greedy[:-1]

    @property
    def early(self) -> int:
        """The first position after the prompt."""
        return len(self.prompt)

    @property
    def middle(self) -> int:
        """The middle of the text context."""
        return self.n_text_ctx // 2

    @property
    def last(self) -> int:
        """The last position of the text context."""
        return self.n_text_ctx - 1

    @property
    def fed(self) -> list[int]:
        """int [n_text_ctx]: prompt and greedy tokens, repeated, so that every position is computed."""
        once = self.prompt + self.greedy
        return (once * -(-self.n_text_ctx // len(once)))[: self.n_text_ctx]

    @property
    def branch(self) -> list[int]:
        """The same tokens up to the middle, and others from there on: those before them, once more."""
        return self.fed[: self.middle] + self.fed[self.middle - 1 : -1]


def load_inputs(audio: Sequence[str | Path]) -> list[tuple[str, np.ndarray]]:
    """(file name, float32 samples at 16 kHz) of the files given, or of the sample in the package: their beginnings.

    Names are made printable: they go into reports and into the manifest, which are text.
    """
    return [(printable(Path(path).name), _beginning(path)) for path in (audio or [SPEECH])]


def window_of(name: str, samples: np.ndarray, dims: ModelDimensions) -> Window:
    """Cut or pad float32 samples at 16 kHz to one window."""
    padded = np.zeros(dims.n_frames * HOP_LENGTH, np.float32)
    padded[: len(samples)] = samples[: len(padded)]
    return Window(name, round(min(len(samples), len(padded)) / SAMPLE_RATE, 2), padded)


def prompt_of(tokenizer: Tokenizer) -> list[int]:
    """The prompt that every comparison starts from: English, transcribe, without timestamps."""
    language = "en" if tokenizer.special.multilingual else None
    return [*tokenizer.sot_sequence(language, "transcribe"), tokenizer.special.no_timestamps]


def greedy_limit(prompt: list[int], dims: ModelDimensions) -> int:
    """Tokens that a comparison decodes at most."""
    return min(TOKEN_LIMIT, dims.n_text_ctx - len(prompt))


def describe(window: Window, transcript: Transcript, tokenizer: Tokenizer) -> Input:
    """What the report says about the recording."""
    return Input(window.name, window.seconds, tokenizer.decode(transcript.greedy).strip())


def _beginning(path: str | Path) -> np.ndarray:
    pieces, n_samples = [], 0
    for piece in open_sound(path).pieces():
        pieces.append(piece)
        n_samples += piece.size
        if n_samples >= MOST_SECONDS * SAMPLE_RATE:
            break
    return np.concatenate(pieces)
