"""The windows of a recording as the loop takes them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from whisper2max.runtime.hypotheses import DecodingResult
from whisper2max.runtime.loop import Window, Windows
from whisper2max.runtime.options import TranscriptionOptions
from whisper2max.runtime.recording import Recording
from whisper2max.runtime.results import Segment
from whisper2max.runtime.rules import EndRule
from whisper2max.runtime.tokens import Tokenizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Stretch(Window):
    """A window of a recording.

    Attributes:
        seek: its first frame.
        end: the frame after its last one; zeros follow.
    """

    seek: int
    end: int


class Cutter(Windows[Stretch], Protocol):
    """Cuts a recording into windows and their results into segments."""

    def first(self) -> tuple[int, int] | None:
        """Seek and end of the first window; None where there is nothing to hear."""

    def take(self, window: Stretch, result: DecodingResult) -> Iterator[Segment]:
        """Segments that a result completes, in order; the next window may depend on them."""


@dataclass
class Heard:
    """What the windows of a recording have in common.

    Attributes:
        recording: is cut.
        tokenizer: of the model.
        options: of the transcription.
        n_frames: frames of a window.
        language: code of the spoken language; None while it is not known.
        audios: number of the audio of each window that is heard already, by seek and end.
    """

    recording: Recording
    tokenizer: Tokenizer
    options: TranscriptionOptions
    n_frames: int
    language: str | None
    audios: dict[tuple[int, int], int] = field(default_factory=dict)

    def window(self, seek: int, end: int, prompt: list[int], end_rule: EndRule | None = None) -> Stretch:
        """The window from a frame up to another."""
        audio = self.audios.pop((seek, end), None)
        sound = self.recording.window(seek, end, self.n_frames) if audio is None else audio
        options = self.options.of_window(self.language, prompt)
        return Stretch(sound=sound, options=options, end_rule=end_rule, seek=seek, end=end)

    def is_silent(self, result: DecodingResult) -> bool:
        """Whether a window is left out, by the thresholds of the options."""
        options = self.options
        if options.no_speech_threshold is None or result.no_speech_prob <= options.no_speech_threshold:
            return False
        return options.log_prob_threshold is None or result.avg_logprob <= options.log_prob_threshold
