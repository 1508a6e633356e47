"""What stands for the loop where only windows and their results matter."""

from collections.abc import Callable, Iterator

import numpy as np

from whisper2max.runtime.features import pad_or_trim
from whisper2max.runtime.hypotheses import DecodingResult
from whisper2max.runtime.recording import Recording
from whisper2max.runtime.windows import Stretch


class Told:
    """A `Decoder` that is told the result of every window, several under way at once.

    Attributes:
        windows: all that were given, in order.
        under_way: how many were under way whenever one ended.
    """

    def __init__(
        self,
        said: Callable[[Stretch], DecodingResult],
        at_once: int = 1,
        rng: np.random.Generator | None = None,
    ):
        self._said, self._at_once, self._rng = said, at_once, rng
        self.windows: list[Stretch] = []
        self.under_way: list[int] = []

    def run(self, windows) -> Iterator[tuple[Stretch, DecodingResult]]:
        """Every window with its result; with `rng`, the one that ends is any of those under way."""
        under_way: list[Stretch] = []
        while True:
            while len(under_way) < self._at_once and (window := windows.next()) is not None:
                under_way.append(window)
                self.windows.append(window)
            if not under_way:
                return
            self.under_way.append(len(under_way))
            window = under_way.pop(0 if self._rng is None else self._rng.integers(len(under_way)))
            yield window, self._said(window)


class GivenSpectrogram(Recording):
    """A recording whose spectrogram is given, float32 [n_mels, frames + 3000], with 30 s after its end."""

    def __init__(self, mel: np.ndarray):
        self.mel, self.n_frames, self.n_samples, self._needed = mel, mel.shape[1] - 3000, 0, 0
        self.sounding = np.ones(self.n_frames, bool)

    def window(self, first: int, end: int, n_frames: int) -> np.ndarray:
        assert first >= self._needed, "what was to be forgotten is asked for"
        return pad_or_trim(self.mel[:, first:end], n_frames)
