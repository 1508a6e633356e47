"""What decoding asks of an engine, whichever program runs the model.

Caches of self-attention live in a pool of slots, what was heard in a pool of audios. Rows say where they look, so they
are reordered, left, joined and given a common beginning by writing a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from whisper2max.core.dims import ModelDimensions
from whisper2max.runtime.choice import Allowed, Choice

Logits = Any
"""float32 [rows, n_vocab] as an engine has them: an array, or a handle to where they are."""


@dataclass(frozen=True)
class Rows:
    """Where the rows of one call look. Rows of the same audio are faster as neighbours.

    Attributes:
        positions: int64 [rows], where the first new token of each row goes.
        slots: int32 [rows, n_text_ctx], the slot that holds each position of each row, up to its last new token.
            What is new at a position is written to the slot named there.
        audios: int64 [rows], the place in the pool of audios that each row hears.
    """

    positions: np.ndarray
    slots: np.ndarray
    audios: np.ndarray

    @classmethod
    def apart(cls, positions: Sequence[int], audios: Sequence[int], n_text_ctx: int) -> "Rows":
        """Rows that share nothing: the cache of each is the slot of its number."""
        slots = np.arange(len(positions), dtype=np.int32)
        return cls(
            np.array(positions, np.int64), np.repeat(slots[:, None], n_text_ctx, axis=1), np.array(audios, np.int64)
        )


class Session(Protocol):
    """A pool of slots and a pool of audios, used by one thread."""

    def hear(self, mel: np.ndarray, audio: int) -> None:
        """Encode a window and keep what the decoder hears of it.

        Args:
            mel: float32 [n_mels, 2 * n_audio_ctx], a log-mel spectrogram.
            audio: the place in the pool of audios.
        """

    def extend(self, tokens: np.ndarray, rows: Rows, picked: np.ndarray) -> np.ndarray:
        """Decode several tokens of every row; a prompt begins at position 0.

        Args:
            tokens: int64 [rows, length], positions + length <= n_text_ctx. What follows the last picked token of a row
                is padding, any ids: whether it is stored is left open.
            rows: where they look.
            picked: int64 [rows, n], which of the tokens' logits are wanted.

        Returns:
            Logits float32 [rows, n, n_vocab], the caller's own.
        """

    def step(self, tokens: np.ndarray, rows: Rows) -> Logits:
        """Decode one token of every row.

        Args:
            tokens: int64 [rows].
            rows: where they look.

        Returns:
            What `choose` takes: logits float32 [rows, n_vocab], an array or where the engine keeps them.
        """

    def choose(self, logits: Logits, allowed: Sequence[Allowed]) -> list[Choice]:
        """The most probable token of each row, of those that may follow.

        Args:
            logits: from `step`, or of one position from `extend`; not to be used again.
            allowed: what may follow in each row.
        """


class Engine(Protocol):
    """Runs the graphs of one model.

    Attributes:
        dims: sizes of the model.
    """

    @property
    def dims(self) -> ModelDimensions: ...

    def features(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        """Log-mel powers of mono samples at 16 kHz with `padding` zeros after them.

        Args:
            samples: float32 [samples].
            padding: zero samples to add.

        Returns:
            float32 [n_mels, (samples + padding) // 160], a frame each 10 ms.
        """

    def session(self, slots: int, audios: int) -> Session:
        """Open a pool of so many slots and audios."""
