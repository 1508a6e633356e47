"""The windows of a recording: one after the other, each beginning where the text before it ended, or cut beforehand.

The former is the loop of openai-whisper's `transcribe` at temperature 0; the latter decodes several windows at a time,
as faster-whisper's `BatchedInferencePipeline` does.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from whisper2max.runtime.decoding import DecodingOptions, DecodingResult, decode, detect_language
from whisper2max.runtime.features import FRAMES_PER_SECOND
from whisper2max.runtime.recording import Recording
from whisper2max.runtime.results import Segment, TranscriptionOptions
from whisper2max.runtime.segments import slices, spoken
from whisper2max.runtime.tokens import Tokenizer

# Less than this at the end of a window that was cut at a pause is the pause.
SHORTEST_REST_FRAMES = FRAMES_PER_SECOND // 2
# A language that is this probable in a window padded with zeros was the same padded with silence, of all clips tried.
SURE_LANGUAGE = 0.9


class Heard:
    """Encoded windows of a recording. Those in which the language was detected are encoded once.

    Attributes:
        engine: runs the model.
        recording: what is encoded.
    """

    def __init__(self, engine, recording: Recording):
        self.engine = engine
        self.recording = recording
        self._windows, self._states = None, None

    def states(self, windows: list[tuple[int, int]]):
        """Encoder states of the windows, from a frame up to another, padded with zeros.

        They are encoded one after the other: each keeps every core busy, and together they take 35 MB each (base).
        """
        known, self._states = self._states, None
        if known is not None and windows == self._windows:
            return known
        n_frames = self.engine.dims.n_frames
        states = [self.engine.encode(self.recording.window(*window, n_frames)[None]) for window in windows]
        if len(states) == 1:
            return states[0]
        return self.engine.to_states(np.concatenate([self.engine.to_numpy(each) for each in states]))

    def language(self, windows: list[tuple[int, int] | None], tokenizer: Tokenizer) -> dict[str, float] | None:
        """Probabilities of the languages in the first of the windows, or None if there is no window.

        openai-whisper's `transcribe` detects in a window padded with silence and decodes one padded with zeros. Where
        the latter leaves no doubt, that other encoding is spared.
        """
        if not windows or windows[0] is None:
            return None
        self._windows, self._states = windows, self.states(windows)
        first = self._states if len(windows) == 1 else self.engine.to_states(self.engine.to_numpy(self._states)[:1])
        (probabilities,) = detect_language(self.engine, first, tokenizer)
        (start, end), n_frames = windows[0], self.engine.dims.n_frames
        if end - start == n_frames or max(probabilities.values()) >= SURE_LANGUAGE:
            return probabilities
        padded = self.engine.encode(self.recording.window_in_silence(start, n_frames)[None])
        return detect_language(self.engine, padded, tokenizer)[0]


def first_sounding(recording: Recording, n_frames: int) -> tuple[int, int] | None:
    """The first window in turn that holds sound."""
    for seek in range(0, recording.n_frames, n_frames):
        end = min(seek + n_frames, recording.n_frames)
        if recording.has_sound(seek, end):
            return seek, end
    return None


def in_turn(
    heard: Heard, tokenizer: Tokenizer, window_options: DecodingOptions, options: TranscriptionOptions
) -> Iterator[Segment]:
    engine, recording = heard.engine, heard.recording
    n_frames = engine.dims.n_frames
    prompt = window_options.prompt
    seek, ids = 0, itertools.count()
    while seek < recording.n_frames:
        recording.forget(seek)
        segment_size = min(n_frames, recording.n_frames - seek)
        if not recording.has_sound(seek, seek + segment_size):
            seek += segment_size
            continue
        states = heard.states([(seek, seek + segment_size)])
        result = decode(engine, states, tokenizer, [replace(window_options, prompt=prompt)])[0]
        del states
        if _is_silent(result, options):
            seek += segment_size
            continue
        pieces, advance = slices(result.tokens, tokenizer.special.timestamps, segment_size)
        for segment in spoken(tokenizer, result, seek, pieces, ids):
            yield segment
            prompt = [*prompt, *segment.tokens][-engine.dims.n_text_ctx :]
        if not options.condition_on_previous_text:
            prompt = []
        seek += advance


def in_batches(
    heard: Heard,
    tokenizer: Tokenizer,
    window_options: DecodingOptions,
    options: TranscriptionOptions,
    windows: list[tuple[int, int]],
) -> Iterator[Segment]:
    """Each window as if it were a recording.

    It ends at a pause, so a segment that the model leaves to the window after it is asked for in this one. What it is
    not sure of is heard in a later batch.
    """
    ids = itertools.count()
    waiting, told = windows, []
    while waiting:
        heard.recording.forget(waiting[0][0])
        batch, waiting = waiting[: options.batch_size], waiting[options.batch_size :]
        states = heard.states(batch)
        reaches = [(end - seek - SHORTEST_REST_FRAMES) / FRAMES_PER_SECOND for seek, end in batch]
        asked = [replace(window_options, must_reach=reach) for reach in reaches]
        results = decode(heard.engine, states, tokenizer, asked)
        del states
        rests = []
        for (seek, end), result in zip(batch, results, strict=True):
            if not _is_silent(result, options):
                pieces, advance = slices(result.tokens, tokenizer.special.timestamps, end - seek)
                told.append((seek, end, result, pieces))
                if end - (seek + advance) >= SHORTEST_REST_FRAMES:
                    rests.append((seek + advance, end))
        waiting = rests + waiting
        complete = waiting[0][0] if waiting else heard.recording.n_frames
        told.sort(key=lambda window: window[0])
        while told and told[0][0] < complete:
            seek, end, result, pieces = told.pop(0)
            latest = end / FRAMES_PER_SECOND
            for segment in spoken(tokenizer, result, seek, pieces, ids):
                yield replace(segment, start=min(segment.start, latest), end=min(segment.end, latest))


def _is_silent(result: DecodingResult, options: TranscriptionOptions) -> bool:
    if options.no_speech_threshold is None or result.no_speech_prob <= options.no_speech_threshold:
        return False
    return options.log_prob_threshold is None or result.avg_logprob <= options.log_prob_threshold
