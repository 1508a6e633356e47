"""What may be asked: every option stands here once, with its default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from whisper2max.core.errors import UsageError
from whisper2max.runtime.languages import AUTO, language_code
from whisper2max.runtime.tokens import Tokenizer


@dataclass(frozen=True, kw_only=True)
class SpeechOptions:
    """What holds for one window and for every window of a recording; the names are openai-whisper's.

    Attributes:
        language: code or English name of the spoken language; None or "auto" detects it.
        task: "transcribe", or "translate" into English.
        prefix: text or token ids that the transcript of a window begins with; not part of the result.
        suppress_tokens: ids never to sample; -1 stands for those that no speech contains. None or nothing
            suppresses nothing, anything else the special tokens too.
        suppress_blank: whether the transcript may not begin with `begin_suppress_tokens`.
        begin_suppress_tokens: ids that the transcript may not begin with; None is a space alone and the end.
        without_timestamps: whether to sample text alone; a window is one segment then.
        max_initial_timestamp: the latest time in seconds at which speech may begin; None or 0 is no limit.
    """

    language: str | None = None
    task: str = "transcribe"
    prefix: str | Sequence[int] | None = None
    suppress_tokens: Sequence[int] | None = (-1,)
    suppress_blank: bool = True
    begin_suppress_tokens: Sequence[int] | None = None
    without_timestamps: bool = False
    max_initial_timestamp: float | None = 1.0


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(SpeechOptions):
    """How one window is decoded.

    Attributes:
        prompt: text or token ids of what was said before the window.
        sample_len: most tokens to sample; None is half of the decoder's positions.
    """

    prompt: str | Sequence[int] | None = None
    sample_len: int | None = None


@dataclass(frozen=True, kw_only=True)
class TranscriptionOptions(SpeechOptions):
    """How a recording is transcribed; the names are faster-whisper's.

    Attributes:
        initial_prompt: text or token ids before the first window, such as names that will be spoken; in batches,
            before every window.
        condition_on_previous_text: whether each window is decoded after the text of those before it. None is yes
            for windows in turn and no for batches, which cannot be conditioned.
        no_speech_threshold: a window is silent if its probability of no speech is above this; None: never.
        log_prob_threshold: a window whose mean log-probability is above this is not silent even so.
        batch_size: windows to decode together, cut at pauses. None decodes one after the other, as openai-whisper
            does. In batches no segment overlaps another or ends after its window; one after the other times are those
            that the model says, which may lie up to a window's length after the recording's end.
        audio_stream: which audio stream of the file, from 0; None takes the one that the ffmpeg command takes.
        container_times: whether times are those of a film, whose sound may begin later than its pictures or have
            gaps; by default they are counted in the sound, as by openai-whisper and faster-whisper.
    """

    initial_prompt: str | Sequence[int] | None = None
    condition_on_previous_text: bool | None = None
    no_speech_threshold: float | None = 0.6
    log_prob_threshold: float | None = -1.0
    batch_size: int | None = None
    audio_stream: int | None = None
    container_times: bool = False

    def of_window(self, language: str | None, prompt: Sequence[int]) -> DecodingOptions:
        """How a window of the recording is decoded, after the tokens of a prompt."""
        common = {each.name: getattr(self, each.name) for each in fields(SpeechOptions)}
        return DecodingOptions(**{**common, "language": language}, prompt=prompt)


TRANSCRIPTION_OPTIONS = tuple(each.name for each in fields(TranscriptionOptions))
"""Names of all options of a transcription."""


def transcription_options(named: Mapping[str, Any]) -> TranscriptionOptions:
    """Options by their names.

    Raises:
        UsageError: there is no such option; the nearest are named.
    """
    unknown = [name for name in named if name not in TRANSCRIPTION_OPTIONS]
    if unknown:
        near = {name: get_close_matches(name, TRANSCRIPTION_OPTIONS, 2) for name in unknown}
        asked = [f"{name} (did you mean {' or '.join(near[name])}?)" if near[name] else name for name in unknown]
        raise UsageError(
            f"transcribe has no option {', '.join(asked)}. It has {', '.join(TRANSCRIPTION_OPTIONS)}."
        )
    return TranscriptionOptions(**named)


def check_language(tokenizer: Tokenizer, language: str | None, task: str) -> str | None:
    """The code of the language asked for, or None where it is to be detected; "en" for English-only models.

    Raises:
        UsageError: the language is unknown, or the model cannot do this.
    """
    if task not in ("transcribe", "translate"):
        raise UsageError(f"task {task!r} is unknown; expected transcribe or translate.")
    code = None if language is None or language.strip().lower() == AUTO else language_code(language)
    if not tokenizer.special.multilingual:
        if code not in (None, "en"):
            raise UsageError(
                f"language {language!r} was asked of an English-only model; use a multilingual model, whose "
                "name does not end in .en, or leave the language out."
            )
        if task == "translate":
            raise UsageError(
                "task translate was asked of an English-only model; use a multilingual model, whose name "
                "does not end in .en, to translate into English."
            )
        return "en"
    if code is not None and code not in tokenizer.special.languages:
        raise UsageError(
            f"language {language!r} ({code}) is not among the {len(tokenizer.special.languages)} of this "
            f"model: {', '.join(tokenizer.special.languages)}."
        )
    return code
