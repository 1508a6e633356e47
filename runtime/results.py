"""What a transcription gives: segments, and what is known of the whole recording; faster-whisper's names."""

from dataclasses import dataclass

from whisper2max.runtime.options import TranscriptionOptions


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
