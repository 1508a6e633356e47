"""Given windows, each with options of its own: what openai-whisper's `decode` and `detect_language` do with them."""

from collections.abc import Sequence

import numpy as np

from whisper2max.core.errors import UsageError
from whisper2max.runtime.hypotheses import DecodingResult
from whisper2max.runtime.loop import Decoder, Window
from whisper2max.runtime.options import DecodingOptions, check_language
from whisper2max.runtime.prompts import initial_prompt
from whisper2max.runtime.protocol import Engine
from whisper2max.runtime.rules import EndRule, Rules
from whisper2max.runtime.tokens import Tokenizer


def detect_language(engine: Engine, tokenizer: Tokenizer, mel: np.ndarray) -> list[dict[str, float]]:
    """The probability of each language in each window.

    Args:
        engine: runs the model.
        tokenizer: of the model.
        mel: float32 [windows, n_mels, 2 * n_audio_ctx].

    Returns:
        For each window the probabilities by language code, in the order of the vocabulary; they sum to 1.

    Raises:
        UsageError: the model knows English alone.
    """
    decoder = Decoder(engine, tokenizer, len(mel))
    return decoder.languages([decoder.hear(each) for each in mel])


def decode(
    engine: Engine,
    tokenizer: Tokenizer,
    mel: np.ndarray,
    options: Sequence[DecodingOptions],
    end_rules: Sequence[EndRule | None] | None = None,
) -> list[DecodingResult]:
    """Decodes windows together, each as it would be decoded alone.

    Args:
        engine: runs the model.
        tokenizer: of the model.
        mel: float32 [windows, n_mels, 2 * n_audio_ctx].
        options: one for each window.
        end_rules: one for each window, where its text may end; None leaves that to the model.

    Raises:
        UsageError: an option asks what the model cannot do.
        ArtifactError: the model gives logits that are not numbers.
    """
    if len(options) != len(mel):
        raise UsageError(f"{len(options)} decoding options for {len(mel)} windows; give one for each.")
    for each in options:
        check_options(tokenizer, engine.dims.n_text_ctx, each)
    rules = end_rules or [None] * len(mel)
    windows = [
        Window(sound=sound, options=option, end_rule=rule)
        for sound, option, rule in zip(mel, options, rules, strict=True)
    ]
    results = dict(Decoder(engine, tokenizer, len(mel)).run(_Given(windows)))
    return [results[window] for window in windows]


def check_options(tokenizer: Tokenizer, n_text_ctx: int, options: DecodingOptions) -> None:
    """Raises the UsageError that `decode` would raise for these options."""
    language = check_language(tokenizer, options.language, options.task)
    prompt = initial_prompt(tokenizer, n_text_ctx, options, language or "en")
    Rules(tokenizer, n_text_ctx, options, len(prompt.tokens))


class _Given:
    """Windows that are all there."""

    def __init__(self, windows: Sequence[Window]):
        self._windows = iter(windows)

    def next(self) -> Window | None:
        return next(self._windows, None)
