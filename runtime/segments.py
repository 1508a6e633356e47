"""The tokens of a window to segments of text with times, by openai-whisper's rules."""

from collections.abc import Iterator

from whisper2max.runtime.audio import SAMPLE_RATE
from whisper2max.runtime.features import FRAMES_PER_SECOND, HOP_LENGTH
from whisper2max.runtime.hypotheses import DecodingResult
from whisper2max.runtime.results import Segment
from whisper2max.runtime.tokens import Tokenizer

FRAMES_PER_TOKEN = 2
SECONDS_PER_TOKEN = FRAMES_PER_TOKEN * HOP_LENGTH / SAMPLE_RATE


def spoken(
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


def slices(
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
