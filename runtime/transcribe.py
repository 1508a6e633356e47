"""Recordings of any length to segments of text with times. The names of options and results are faster-whisper's."""

from collections.abc import Iterator
from dataclasses import replace

from whisper2max.core.errors import UsageError
from whisper2max.runtime.at_pauses import AtPauses
from whisper2max.runtime.audio import SAMPLE_RATE, AudioInput, open_sound
from whisper2max.runtime.decoding import check_options
from whisper2max.runtime.detection import language_of
from whisper2max.runtime.in_turn import InTurn
from whisper2max.runtime.loop import Decoder
from whisper2max.runtime.options import TranscriptionOptions, check_language
from whisper2max.runtime.pauses import cut_at_pauses
from whisper2max.runtime.protocol import Engine
from whisper2max.runtime.recording import Recording
from whisper2max.runtime.results import Segment, TranscriptionInfo
from whisper2max.runtime.tokens import Tokenizer
from whisper2max.runtime.windows import Cutter, Heard


def transcribe(
    engine: Engine, tokenizer: Tokenizer, audio: AudioInput, options: TranscriptionOptions
) -> tuple[Iterator[Segment], TranscriptionInfo]:
    """Transcribes a recording, window by window as the segments are asked for.

    Memory does not grow with the recording. One of more than ten minutes is decoded twice: here, for its loudest sound,
    and again while the segments are asked for. A window without any sound, as of zeros, gets no text.

    Args:
        engine: runs the model.
        tokenizer: of the model.
        audio: a path, a binary file, encoded bytes, or float32 samples at 16 kHz.
        options: how. The language is detected, where none is given, in the first window that holds sound; the prefix
            begins every window, as in openai-whisper.

    Returns:
        An iterator over the segments, which does the work, and what is known before it.

    Raises:
        AudioError: the audio cannot be read.
        UsageError: the language or the task is not one of the model's, or an option is out of range.
    """
    options, prompt = _settled(options), _prompt(tokenizer, options)
    language = check_language(tokenizer, options.language, options.task)
    n_frames, n_text_ctx = engine.dims.n_frames, engine.dims.n_text_ctx
    check_options(tokenizer, n_text_ctx, options.of_window(language, prompt))
    recording = Recording(open_sound(audio, options.audio_stream), engine)
    heard = Heard(recording, tokenizer, options, n_frames, language)
    at_once = 1
    cutter: Cutter = InTurn(heard, n_text_ctx, prompt)
    if options.batch_size is not None:
        cuts = cut_at_pauses(recording.loudness, recording.sounding, n_frames)
        at_once = max(1, min(options.batch_size, len(cuts)))
        cutter = AtPauses(heard, cuts, prompt, at_once)
    # the language may be listened for twice, while what is decoded first is kept
    decoder = Decoder(engine, tokenizer, at_once, audios=2 if language is None else 1)
    info = TranscriptionInfo(language, float(language is not None), recording.duration, None, options)
    if language is None and (first := cutter.first()) is not None:
        probabilities, heard.audios[first] = language_of(decoder, recording, first, n_frames)
        ranked = sorted(probabilities.items(), key=lambda item: -item[1])
        heard.language, probability = ranked[0]
        info = replace(
            info, language=heard.language, language_probability=probability, all_language_probs=ranked
        )
    segments = _segments(decoder, cutter)
    return (_in_container(segments, recording) if options.container_times else segments), info


def _settled(options: TranscriptionOptions) -> TranscriptionOptions:
    """The options, with what depends on others decided.

    Raises:
        UsageError: they do not go together.
    """
    batches = options.batch_size is not None
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"batch_size is {options.batch_size}; expected 1 or more windows, or None to decode in turn.")
    if batches and options.condition_on_previous_text:
        raise UsageError(
            "condition_on_previous_text was asked together with batch_size, but windows of a batch are decoded at "
            "once, none after the text of another; leave out one of the two."
        )
    if options.condition_on_previous_text is None:
        return replace(options, condition_on_previous_text=not batches)
    return options


def _prompt(tokenizer: Tokenizer, options: TranscriptionOptions) -> list[int]:
    prompt = options.initial_prompt
    if isinstance(prompt, str):
        return tokenizer.encode(" " + prompt.strip())
    return [int(token) for token in prompt or ()]


def _segments(decoder: Decoder, cutter: Cutter) -> Iterator[Segment]:
    for window, result in decoder.run(cutter):
        yield from cutter.take(window, result)


def _in_container(segments: Iterator[Segment], recording: Recording) -> Iterator[Segment]:
    """The segments with the container's times."""

    def moved(seconds: float) -> float:
        passed = [ahead for sample, ahead in recording.jumps if sample / SAMPLE_RATE <= seconds]
        return seconds + (passed[-1] if passed else 0.0)

    for segment in segments:
        start = moved(segment.start)
        yield replace(segment, start=start, end=max(start, moved(segment.end)))
