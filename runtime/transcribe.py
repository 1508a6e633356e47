"""Recordings of any length to segments of text with times. The names of options and results are faster-whisper's."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from whisper2max.core.errors import UsageError
from whisper2max.runtime.audio import SAMPLE_RATE, AudioInput, open_sound
from whisper2max.runtime.decoding import DecodingOptions, check_language, check_options
from whisper2max.runtime.pauses import cut_at_pauses
from whisper2max.runtime.recording import Recording
from whisper2max.runtime.results import Segment, TranscriptionInfo, TranscriptionOptions
from whisper2max.runtime.tokens import Tokenizer
from whisper2max.runtime.windows import Heard, first_sounding, in_batches, in_turn


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
    heard = Heard(engine, recording)
    probabilities = None
    if language is None:
        first_batch = [first_sounding(recording, n_frames)] if windows is None else windows[:batch_size]
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
    segments = in_turn(*common) if windows is None else in_batches(*common, windows)
    return (_in_container(segments, recording) if container_times else segments), info


def _in_container(segments: Iterator[Segment], recording: Recording) -> Iterator[Segment]:
    """The segments with the container's times."""

    def moved(seconds: float) -> float:
        passed = [ahead for sample, ahead in recording.jumps if sample / SAMPLE_RATE <= seconds]
        return seconds + (passed[-1] if passed else 0.0)

    for segment in segments:
        start = moved(segment.start)
        yield replace(segment, start=start, end=max(start, moved(segment.end)))


def _token_ids(tokenizer: Tokenizer, prompt: str | Sequence[int] | None) -> list[int]:
    if prompt is None:
        return []
    if isinstance(prompt, str):
        return tokenizer.encode(" " + prompt.strip())
    return [int(token) for token in prompt]
