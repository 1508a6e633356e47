"""Windows cut at pauses beforehand, decoded together and in any order, each as if it were a recording.

faster-whisper's `BatchedInferencePipeline` does the same. A window ends at a pause, so a segment that the model leaves
to the window after it is asked for in this one; what it is not sure of is heard once more, as a window of its own.
"""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import replace

from whisper2max.runtime.features import FRAMES_PER_SECOND
from whisper2max.runtime.hypotheses import DecodingResult
from whisper2max.runtime.rest import TellTheRest
from whisper2max.runtime.results import Segment
from whisper2max.runtime.segments import slices, spoken
from whisper2max.runtime.windows import Heard, Stretch

# Less than this at the end of a window that was cut at a pause is the pause.
SHORTEST_REST_FRAMES = FRAMES_PER_SECOND // 2
# So many windows for each one that is decoded at once are begun before the first is told: the recording's frames from
# there on lie in memory.
WINDOWS_AHEAD = 3


class AtPauses:
    """A `Cutter`.

    Args:
        heard: the recording and its options.
        cuts: seek and end of each window, in order and without overlap.
        prompt: ids before every window.
        at_once: how many are decoded at once.
    """

    def __init__(self, heard: Heard, cuts: list[tuple[int, int]], prompt: list[int], at_once: int):
        self._heard, self._waiting, self._prompt = heard, cuts, prompt
        self._most_ahead = WINDOWS_AHEAD * at_once * heard.n_frames
        self._under_way: list[tuple[int, int]] = []
        self._told: list[tuple[Stretch, DecodingResult, list]] = []
        self._ids = itertools.count()

    def first(self) -> tuple[int, int] | None:
        return self._waiting[0] if self._waiting else None

    def next(self) -> Stretch | None:
        if not self._waiting or self._waiting[0][0] >= self._first_untold() + self._most_ahead:
            return None
        self._heard.recording.forget(self._first_untold())
        seek, end = cut = self._waiting.pop(0)
        self._under_way.append(cut)
        reach = (end - seek - SHORTEST_REST_FRAMES) / FRAMES_PER_SECOND
        return self._heard.window(seek, end, self._prompt, TellTheRest(self._heard.tokenizer, reach))

    def take(self, window: Stretch, result: DecodingResult) -> Iterator[Segment]:
        tokenizer = self._heard.tokenizer
        self._under_way.remove((window.seek, window.end))
        if not self._heard.is_silent(result):
            pieces, advance = slices(result.tokens, tokenizer.special.timestamps, window.end - window.seek)
            self._told.append((window, result, pieces))
            if window.end - (window.seek + advance) >= SHORTEST_REST_FRAMES:
                bisect.insort(self._waiting, (window.seek + advance, window.end))
        self._told.sort(key=lambda told: told[0].seek)
        complete = self._first_untold()
        while self._told and self._told[0][0].seek < complete:
            told, of_it, pieces = self._told.pop(0)
            latest = told.end / FRAMES_PER_SECOND
            for segment in spoken(tokenizer, of_it, told.seek, pieces, self._ids):
                yield replace(segment, start=min(segment.start, latest), end=min(segment.end, latest))

    def _first_untold(self) -> int:
        """The first frame of all windows that are still to be decoded."""
        seeks = [seek for seek, _ in (*self._under_way, *self._waiting[:1])]
        return min(seeks, default=self._heard.recording.n_frames)
