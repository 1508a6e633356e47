"""One recording, prepared: what is fed to both sides, and what the witness makes of it."""

from dataclasses import dataclass

import numpy as np

from whisper2max.core.dims import ModelDimensions
from whisper2max.parity.report import Input
from whisper2max.runtime.audio import SAMPLE_RATE
from whisper2max.runtime.engine import Engine
from whisper2max.runtime.features import HOP_LENGTH
from whisper2max.runtime.tokens import Tokenizer

TOKEN_LIMIT = 64


@dataclass(frozen=True)
class Window:
    """The first 30 s of a recording.

    Attributes:
        name: file name.
        seconds: of the recording that are in it.
        samples: float32 [480000] at 16 kHz, zeros after the recording's end.
        mel: float32 [n_mels, 3000], the features.
    """

    name: str
    seconds: float
    samples: np.ndarray
    mel: np.ndarray


@dataclass(frozen=True)
class Transcript:
    """What torch hears in a window, as tokens to feed to a decoder.

    Attributes:
        prompt: start of transcript, language, task, no timestamps.
        greedy: what torch float32 continues with, at most TOKEN_LIMIT tokens, with end of text if it came.
        fed: prompt and greedy tokens repeated up to the whole text context, so that every position is computed.
    """

    prompt: list[int]
    greedy: list[int]
    fed: list[int]

    @property
    def forced(self) -> list[int]:
        """The part that is a transcript: prompt and greedy tokens without the last."""
        return self.prompt + self.greedy[:-1]


def window_of(name: str, samples: np.ndarray, engine: Engine) -> Window:
    """Cut or pad float32 samples at 16 kHz to one window; the features are those of the graph that ships."""
    padded = np.zeros(engine.dims.n_frames * HOP_LENGTH, np.float32)
    padded[: len(samples)] = samples[: len(padded)]
    seconds = min(len(samples), len(padded)) / SAMPLE_RATE
    return Window(name, round(seconds, 2), padded, engine.log_mel(padded))


def prompt_of(tokenizer: Tokenizer) -> list[int]:
    """The prompt that every comparison starts from: English, transcribe, without timestamps."""
    language = "en" if tokenizer.special.multilingual else None
    return [*tokenizer.sot_sequence(language, "transcribe"), tokenizer.special.no_timestamps]


def greedy_limit(tokenizer: Tokenizer, dims: ModelDimensions) -> int:
    """Tokens that a comparison decodes at most."""
    return min(TOKEN_LIMIT, dims.n_text_ctx - len(prompt_of(tokenizer)))


def transcript_of(prompt: list[int], greedy: list[int], dims: ModelDimensions) -> Transcript:
    """Repeat a transcript until it fills the text context."""
    once = prompt + greedy
    repeats = -(-dims.n_text_ctx // len(once))
    return Transcript(prompt, greedy, (once * repeats)[: dims.n_text_ctx])


def step_positions(prompt: list[int], dims: ModelDimensions) -> tuple[int, ...]:
    """Where cached steps are compared: right after the prompt, in the middle and at the end of the text context."""
    return tuple(sorted({len(prompt), dims.n_text_ctx // 2, dims.n_text_ctx - 1}))


def describe(window: Window, transcript: Transcript, tokenizer: Tokenizer) -> Input:
    """What the report says about the recording."""
    return Input(window.name, window.seconds, tokenizer.decode(transcript.greedy).strip())
