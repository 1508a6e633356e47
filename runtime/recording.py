"""The spectrogram of a recording of any length, of which only what is needed next lies in memory.

What the encoder hears depends on the loudest sound of the whole recording, so there are two passes. The first finds the
loudest, how loud every frame is and where there is no sound at all. Up to `KEPT_SECONDS` it keeps the frames as well;
what is longer is decoded a second time, as windows are asked for. Both passes give every frame the same bits as one
spectrogram of the whole.
"""

from collections.abc import Iterator

import numpy as np

from whisper2max.core.errors import AudioError
from whisper2max.runtime.audio import SAMPLE_RATE, Sound
from whisper2max.runtime.features import FRAMES_PER_SECOND, HOP_LENGTH, N_FFT, SILENCE, scaled
from whisper2max.runtime.protocol import Engine

KEPT_SECONDS = 600
BLOCK_FRAMES = 60 * FRAMES_PER_SECOND
# Frames at the edge of a part of the recording that would hear beyond it.
EDGE_FRAMES = -(-N_FFT // 2 // HOP_LENGTH)
# The loudest mel channel of nothing: of zeros it is SILENCE, of their dithering to 16 bits up to -8.
DIGITAL_SILENCE = SILENCE + 2.5


class Recording:
    """A recording, as windows of its spectrogram.

    Attributes:
        n_samples: at 16 kHz.
        n_frames: whole frames of 10 ms.
        loudest: the largest log-mel power of any frame.
        loudness: float32 [n_frames], the mean over mel channels of the log-mel power, at least `SILENCE`.
        sounding: bool [n_frames], whether a frame holds more than digital silence.
        jumps: as `Sound.jumps`.
    """

    def __init__(self, sound: Sound, engine: Engine):
        """The first pass: the sound is decoded from its beginning to its end.

        Args:
            sound: what was recorded.
            engine: gives log-mel powers.

        Raises:
            AudioError: the sound cannot be decoded, or holds no samples.
        """
        self._sound = sound
        self.engine = engine
        self.n_samples = 0
        self.loudest = np.float32(SILENCE)
        loudness, sounding, kept, n_kept = [], [], [], 0
        for powers in self._blocks():
            self.loudest = max(self.loudest, powers.max(initial=SILENCE))
            loudness.append(powers.mean(axis=0))
            sounding.append(powers.max(axis=0) > DIGITAL_SILENCE)
            n_kept += powers.shape[1]
            if n_kept <= KEPT_SECONDS * FRAMES_PER_SECOND:
                kept.append(powers)
            else:
                kept.clear()
        self.n_frames = self.n_samples // HOP_LENGTH
        self.loudness = np.concatenate(loudness)[: self.n_frames]
        self.sounding = np.concatenate(sounding)[: self.n_frames]
        self.jumps = tuple(sound.jumps)
        # the second pass: frames from `_first` on, up to where `_following` continues
        self._first = 0
        self._powers = np.concatenate(kept, axis=1) if kept else np.empty((engine.dims.n_mels, 0), np.float32)
        self._following = iter(()) if kept else self._blocks()
        self._needed = 0

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.n_samples / SAMPLE_RATE

    def has_sound(self, first: int, end: int) -> bool:
        """Whether there is more than digital silence between two frames; their edges hear what is beside them."""
        first += EDGE_FRAMES if first > 0 else 0
        end -= EDGE_FRAMES if end < self.n_frames else 0
        return bool(self.sounding[first:end].any())

    def window(self, first: int, end: int, n_frames: int) -> np.ndarray:
        """Frames from one up to another, with zeros after them: float32 [n_mels, n_frames].

        Raises:
            AudioError: the recording cannot be read a second time.
        """
        window = np.zeros((self.engine.dims.n_mels, n_frames), np.float32)
        window[:, : end - first] = scaled(self._between(first, end), self.loudest)
        return window

    def window_in_silence(self, first: int, n_frames: int) -> np.ndarray:
        """Frames from one on, and silence after the end of the recording: float32 [n_mels, n_frames]."""
        powers = np.full((self.engine.dims.n_mels, n_frames), SILENCE, np.float32)
        heard = self._between(first, min(first + n_frames, frames_that_hear(self.n_samples)))
        powers[:, : heard.shape[1]] = heard
        return scaled(powers, self.loudest)

    def forget(self, before: int) -> None:
        """Frames before this one are not asked for any more."""
        self._needed = max(self._needed, before)

    def _between(self, first: int, end: int) -> np.ndarray:
        while self._first + self._powers.shape[1] < end:
            powers = next(self._following, None)
            if powers is None:
                break
            useless = min(max(self._needed - self._first, 0), self._powers.shape[1])
            self._powers = np.concatenate([self._powers[:, useless:], powers], axis=1)
            self._first += useless
        found = self._powers[:, first - self._first : end - self._first]
        if found.shape[1] < min(end, self.n_frames) - first:
            raise AudioError(
                f"{self._sound.name} gave {self.duration:.0f} s of sound when it was read first, and less when it was "
                "read again: keep it unchanged until it is transcribed."
            )
        return found

    def _blocks(self) -> Iterator[np.ndarray]:
        """Log-mel powers of all frames in order, a minute at a time, and of those that hear the end after the last.

        The parts that are transformed overlap: an edge frame hears the mirrored part, not what follows.
        """
        waiting, n_waiting, n_samples, done = [], 0, 0, 0
        wanted = (BLOCK_FRAMES + 2 * EDGE_FRAMES) * HOP_LENGTH
        for piece in self._sound.pieces():
            waiting.append(piece)
            n_waiting += piece.size
            n_samples += piece.size
            if n_waiting < wanted:
                continue
            samples = np.concatenate(waiting)
            part = samples[: samples.size // HOP_LENGTH * HOP_LENGTH]
            powers = self.engine.features(part)[:, EDGE_FRAMES if done else 0 : -EDGE_FRAMES]
            done += powers.shape[1]
            yield powers
            waiting = [samples[part.size - 2 * EDGE_FRAMES * HOP_LENGTH :].copy()]
            n_waiting = waiting[0].size
        self.n_samples = self.n_samples or n_samples  # of the first pass
        samples = np.concatenate(waiting)
        # zeros follow the recording, of which the edge frames hear some
        powers = self.engine.features(samples, padding=2 * EDGE_FRAMES * HOP_LENGTH)
        powers = powers[:, EDGE_FRAMES if done else 0 :]
        yield powers[:, : frames_that_hear(n_samples) - done]


def frames_that_hear(n_samples: int) -> int:
    """Frames of 10 ms that hear a sample; the last ones lie after the last whole frame and hear silence too."""
    return (n_samples + N_FFT // 2 - 1) // HOP_LENGTH + 1
