"""Windows one after the other, each beginning where the text before it ended: openai-whisper's `transcribe`."""

import itertools
from collections.abc import Iterator

from whisper2max.runtime.hypotheses import DecodingResult
from whisper2max.runtime.results import Segment
from whisper2max.runtime.segments import slices, spoken
from whisper2max.runtime.windows import Heard, Stretch


class InTurn:
    """A `Cutter`.

    Args:
        heard: the recording and its options.
        n_text_ctx: the decoder's positions, as many ids of what was said before are kept.
        prompt: ids before the first window.
    """

    def __init__(self, heard: Heard, n_text_ctx: int, prompt: list[int]):
        self._heard, self._n_text_ctx, self._prompt = heard, n_text_ctx, prompt
        self._seek, self._ids = 0, itertools.count()
        self._awaited = False

    def first(self) -> tuple[int, int] | None:
        return self._sounding(0)

    def next(self) -> Stretch | None:
        found = None if self._awaited else self._sounding(self._seek)
        if found is None:
            return None
        self._awaited = True
        self._heard.recording.forget(found[0])
        return self._heard.window(*found, self._prompt)

    def take(self, window: Stretch, result: DecodingResult) -> Iterator[Segment]:
        tokenizer = self._heard.tokenizer
        self._awaited = False
        n_frames = window.end - window.seek
        if self._heard.is_silent(result):
            self._seek = window.end
            return
        pieces, advance = slices(result.tokens, tokenizer.special.timestamps, n_frames)
        for segment in spoken(tokenizer, result, window.seek, pieces, self._ids):
            yield segment
            self._prompt = [*self._prompt, *segment.tokens][-self._n_text_ctx :]
        if not self._heard.options.condition_on_previous_text:
            self._prompt = []
        self._seek = window.seek + advance

    def _sounding(self, seek: int) -> tuple[int, int] | None:
        """The first window from a frame on that holds sound."""
        recording, n_frames = self._heard.recording, self._heard.n_frames
        while seek < recording.n_frames:
            end = min(seek + n_frames, recording.n_frames)
            if recording.has_sound(seek, end):
                return seek, end
            seek = end
        return None
