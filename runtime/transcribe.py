"""Recordings of any length to segments of text with times.

The loop is that of openai-whisper's `transcribe` at temperature 0: windows of 30 s, each beginning where the
timestamps of the one before ended. With a batch size, the windows are cut at pauses beforehand and decoded several at
a time, as by faster-whisper's `BatchedInferencePipeline`. The names of options and results are faster-whisper's.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from whisper2max.errors import UsageError
from whisper2max.runtime.audio import SAMPLE_RATE, AudioInput, open_sound
from whisper2max.runtime.decoding import (
    DecodingOptions,
    DecodingResult,
    check_language,
    check_options,
    decode,
    detect_language,
)
from whisper2max.runtime.features import FRAMES_PER_SECOND, HOP_LENGTH
from whisper2max.runtime.pauses import cut_at_pauses
from whisper2max.runtime.recording import Recording
from whisper2max.runtime.tokens import Tokenizer

FRAMES_PER_TOKEN = 2
SECONDS_PER_TOKEN = FRAMES_PER_TOKEN * HOP_LENGTH / SAMPLE_RATE
# Less than this at the end of a window that was cut at a pause is the pause.
SHORTEST_REST_FRAMES = FRAMES_PER_SECOND // 2
# A language that is this probable in a window padded with zeros was the same padded with silence, of all clips tried.
SURE_LANGUAGE = 0.9


@dataclass(frozen=True)
class Segment:
    """A stretch of speech, usually a sentence; the fields and their order are openai-whisper's.

    Attributes:
        id: number of the segment, from 0.
        seek: first mel frame, of 10 ms, of the window that it was heard in.
        start: seconds from the beginning of the recording.
        end: seconds from the beginning of the recording.
        text: what was said, with its leading space.
        tokens: ids of the text and of the timestamps around it.
        temperature: always 0, greedy.
        avg_logprob: mean natural log-probability of the window's tokens.
        compression_ratio: of the window's text; high when it repeats itself.
        no_speech_prob: probability that nobody speaks in the window.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


@dataclass(frozen=True)
class TranscriptionOptions:
    """The options that a transcription ran with; see `transcribe`."""

    task: str
    initial_prompt: str | Sequence[int] | None
    condition_on_previous_text: bool
    no_speech_threshold: float | None
    log_prob_threshold: float | None
    without_timestamps: bool
    suppress_blank: bool
    suppress_tokens: Sequence[int] | None
    max_initial_timestamp: float | None
    prefix: str | Sequence[int] | None
    batch_size: int | None
    begin_suppress_tokens: Sequence[int] | None
    audio_stream: int | None
    container_times: bool


@dataclass(frozen=True)
class TranscriptionInfo:
    """What is known of a recording before its text.

    Attributes:
        language: code of the spoken language, given or detected; None when a multilingual model hears no sound.
        language_probability: 1 when the language was given, 0 when there is none.
        duration: seconds.
        all_language_probs: codes and probabilities, highest first; None when the language was given or there is none.
        transcription_options: the options of the call.
    """

    language: str | None
    language_probability: float
    duration: float
    all_language_probs: list[tuple[str, float]] | None
    transcription_options: TranscriptionOptions


def transcribe(
    engine,
    tokenizer: Tokenizer,
    audio: AudioInput,
    *,
    language: str | None = None,
    task: str = "transcribe",
    initial_prompt: str | Sequence[int] | None = None,
    condition_on_previous_text: bool = True,
    no_speech_threshold: float | None = 0.6,
    log_prob_threshold: float | None = -1.0,
    without_timestamps: bool = False,
    suppress_blank: bool = True,
    suppress_tokens: Sequence[int] | None = (-1,),
    max_initial_timestamp: float | None = 1.0,
    prefix: str | Sequence[int] | None = None,
    batch_size: int | None = None,
    begin_suppress_tokens: Sequence[int] | None = None,
    audio_stream: int | None = None,
    container_times: bool = False,
) -> tuple[Iterator[Segment], TranscriptionInfo]:
    """Transcribes a recording, window by window as the segments are asked for.

    Memory does not grow with the recording. One of more than ten minutes is decoded twice: here, for its loudest sound,
    and again while the segments are asked for. A window without any sound, as of zeros, gets no text.

    Args:
        engine: runs the model.
        tokenizer: of the model.
        audio: a path, a binary file, encoded bytes, or float32 samples at 16 kHz.
        language: code or English name; None detects it in the first window that holds sound.
        task: "transcribe", or "translate" into English.
        initial_prompt: text or token ids before the first window, such as names that will be spoken; in
            batches, before every window.
        condition_on_previous_text: whether each window is decoded after the text of those before it; in
            batches none is, whatever is asked.
        no_speech_threshold: a window is silent if its probability of no speech is above this; None: never.
        log_prob_threshold: a window whose mean log-probability is above this is not silent even so.
        without_timestamps: one segment for each window of 30 s, text alone.
        suppress_blank, suppress_tokens, max_initial_timestamp, prefix, begin_suppress_tokens: see
            `DecodingOptions`; the prefix begins every window, as in openai-whisper.
        batch_size: windows to encode and decode together, cut at pauses. None decodes one after the other, as
            openai-whisper does. In batches no segment overlaps another or ends after its window; one after the other
            times are those that the model says, which may lie up to a window's length after the recording's end.
        audio_stream: which audio stream of the file, from 0; None takes the one that the ffmpeg command takes.
        container_times: whether times are those of a film, whose sound may begin later than its pictures or have gaps;
            by default they are counted in the sound, as by openai-whisper and faster-whisper.

    Returns:
        An iterator over the segments, which does the work, and what is known before it.

    Raises:
        AudioError: the audio cannot be read.
        UsageError: the language or the task is not one of the model's, or an option is out of range.
    """
    window_options = DecodingOptions(
        task=task,
        language=language,
        prompt=_token_ids(tokenizer, initial_prompt),
        prefix=prefix,
        suppress_tokens=suppress_tokens,
        suppress_blank=suppress_blank,
        without_timestamps=without_timestamps,
        max_initial_timestamp=max_initial_timestamp,
        begin_suppress_tokens=begin_suppress_tokens,
    )
    check_options(tokenizer, engine.dims.n_text_ctx, window_options)
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; expected 1 or more windows, or None to decode in turn.")
    language = check_language(tokenizer, language, task)
    recording = Recording(open_sound(audio, audio_stream), engine)
    n_frames = engine.dims.n_frames
    windows = None if batch_size is None else cut_at_pauses(recording.loudness, recording.sounding, n_frames)
    heard = _Heard(engine, recording)
    probabilities = None
    if language is None:
        first_batch = [_first_sounding(recording, n_frames)] if windows is None else windows[:batch_size]
        probabilities = heard.language(first_batch, tokenizer)
        language = probabilities and max(probabilities, key=probabilities.get)
    info = TranscriptionInfo(
        language=language,
        language_probability=probabilities[language] if probabilities else float(language is not None),
        duration=recording.duration,
        all_language_probs=probabilities and sorted(probabilities.items(), key=lambda item: -item[1]),
        transcription_options=TranscriptionOptions(
            task=task,
            initial_prompt=initial_prompt,
            condition_on_previous_text=condition_on_previous_text,
            no_speech_threshold=no_speech_threshold,
            log_prob_threshold=log_prob_threshold,
            without_timestamps=without_timestamps,
            suppress_blank=suppress_blank,
            suppress_tokens=suppress_tokens,
            max_initial_timestamp=max_initial_timestamp,
            prefix=prefix,
            batch_size=batch_size,
            begin_suppress_tokens=begin_suppress_tokens,
            audio_stream=audio_stream,
            container_times=container_times,
        ),
    )
    window_options = replace(window_options, language=language)
    common = (heard, tokenizer, window_options, info.transcription_options)
    segments = _segments(*common) if windows is None else _segments_in_batches(*common, windows)
    return (_in_container(segments, recording) if container_times else segments), info


class _Heard:
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


def _first_sounding(recording: Recording, n_frames: int) -> tuple[int, int] | None:
    """The first window in turn that holds sound."""
    for seek in range(0, recording.n_frames, n_frames):
        end = min(seek + n_frames, recording.n_frames)
        if recording.has_sound(seek, end):
            return seek, end
    return None


def _segments(
    heard: _Heard, tokenizer: Tokenizer, window_options: DecodingOptions, options: TranscriptionOptions
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
        pieces, advance = _slices(result.tokens, tokenizer.special.timestamps, segment_size)
        for segment in _spoken(tokenizer, result, seek, pieces, ids):
            yield segment
            prompt = [*prompt, *segment.tokens][-engine.dims.n_text_ctx :]
        if not options.condition_on_previous_text:
            prompt = []
        seek += advance


def _segments_in_batches(
    heard: _Heard,
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
                pieces, advance = _slices(result.tokens, tokenizer.special.timestamps, end - seek)
                told.append((seek, end, result, pieces))
                if end - (seek + advance) >= SHORTEST_REST_FRAMES:
                    rests.append((seek + advance, end))
        waiting = rests + waiting
        complete = waiting[0][0] if waiting else heard.recording.n_frames
        told.sort(key=lambda window: window[0])
        while told and told[0][0] < complete:
            seek, end, result, pieces = told.pop(0)
            latest = end / FRAMES_PER_SECOND
            for segment in _spoken(tokenizer, result, seek, pieces, ids):
                yield replace(segment, start=min(segment.start, latest), end=min(segment.end, latest))


def _in_container(segments: Iterator[Segment], recording: Recording) -> Iterator[Segment]:
    """The segments with the container's times."""

    def moved(seconds: float) -> float:
        passed = [ahead for sample, ahead in recording.jumps if sample / SAMPLE_RATE <= seconds]
        return seconds + (passed[-1] if passed else 0.0)

    for segment in segments:
        start = moved(segment.start)
        yield replace(segment, start=start, end=max(start, moved(segment.end)))


def _spoken(
    tokenizer: Tokenizer,
    result: DecodingResult,
    seek: int,
    pieces: list[tuple[float, float, list[int]]],
    ids: Iterator[int],
) -> Iterator[Segment]:
    """The pieces of the window at `seek` that hold text and time."""
    offset = seek / FRAMES_PER_SECOND
    for start, end, tokens in pieces:
        text = tokenizer.decode(tokens)
        if start == end or not text.strip():
            continue
        yield Segment(
            id=next(ids),
            seek=seek,
            start=offset + start,
            end=offset + end,
            text=text,
            tokens=tokens,
            temperature=result.temperature,
            avg_logprob=result.avg_logprob,
            compression_ratio=result.compression_ratio,
            no_speech_prob=result.no_speech_prob,
        )


def _token_ids(tokenizer: Tokenizer, prompt: str | Sequence[int] | None) -> list[int]:
    if prompt is None:
        return []
    if isinstance(prompt, str):
        return tokenizer.encode(" " + prompt.strip())
    return [int(token) for token in prompt]


def _is_silent(result: DecodingResult, options: TranscriptionOptions) -> bool:
    if options.no_speech_threshold is None or result.no_speech_prob <= options.no_speech_threshold:
        return False
    return options.log_prob_threshold is None or result.avg_logprob <= options.log_prob_threshold


def _slices(
    tokens: list[int], timestamps: range, segment_size: int
) -> tuple[list[tuple[float, float, list[int]]], int]:
    """Cuts the tokens of a window where two timestamps meet, an end and the start of the next segment.

    Args:
        tokens: sampled ids of the window.
        timestamps: ids of the timestamps, from 0 s on.
        segment_size: mel frames of the window that hold sound.

    Returns:
        Start, end (seconds from the beginning of the window) and ids of each segment; mel frames to move on.
    """
    is_timestamp = [token in timestamps for token in tokens]
    cuts = [i for i in range(1, len(tokens)) if is_timestamp[i - 1] and is_timestamp[i]]
    single_timestamp_ending = is_timestamp[-2:] == [False, True]
    if not cuts:
        end = segment_size / FRAMES_PER_SECOND
        sampled = [token for token in tokens if token in timestamps]
        if sampled and sampled[-1] != timestamps.start:
            end = (sampled[-1] - timestamps.start) * SECONDS_PER_TOKEN
        return [(0.0, end, tokens)], segment_size
    if single_timestamp_ending:
        cuts.append(len(tokens))
    pieces = []
    for first, last in zip([0, *cuts], cuts, strict=False):
        piece = tokens[first:last]
        start, end = ((token - timestamps.start) * SECONDS_PER_TOKEN for token in (piece[0], piece[-1]))
        pieces.append((start, end, piece))
    if single_timestamp_ending:
        return pieces, segment_size
    # what follows the last pair is heard again; without the timestamp rules that pair can be at 0
    heard = (tokens[cuts[-1] - 1] - timestamps.start) * FRAMES_PER_TOKEN
    return pieces, heard if heard > 0 else segment_size
