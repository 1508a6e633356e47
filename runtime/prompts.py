"""The tokens that a window's transcript is decoded after."""

from collections.abc import Iterable
from dataclasses import dataclass

from whisper2max.core.errors import UsageError
from whisper2max.runtime.options import DecodingOptions
from whisper2max.runtime.tokens import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """What stands before the first sampled token.

    Attributes:
        tokens: ids, at least one.
        sot_index: where the transcript starts, at whose logits the probability of no speech is read.
    """

    tokens: list[int]
    sot_index: int


def most_sampled(options: DecodingOptions, n_text_ctx: int) -> int:
    """Tokens to sample in one window at the most."""
    return options.sample_len or n_text_ctx // 2


def initial_prompt(tokenizer: Tokenizer, n_text_ctx: int, options: DecodingOptions, language: str) -> Prompt:
    """What the options ask for, by openai-whisper's rules; a long `prompt` loses its beginning.

    Raises:
        UsageError: it does not fit, or is not of this vocabulary.
    """
    special = tokenizer.special
    tokens, sot_index = list(tokenizer.sot_sequence(language, options.task)), 0
    if options.without_timestamps:
        tokens.append(special.no_timestamps)
    if prefix := token_ids(tokenizer, options.prefix):
        room = n_text_ctx // 2 - most_sampled(options, n_text_ctx)
        tokens += prefix[-room:] if room > 0 else prefix
    if before := token_ids(tokenizer, options.prompt):
        before = before[-(n_text_ctx // 2 - 1) :]
        tokens = [special.sot_prev, *before, *tokens]
        sot_index = 1 + len(before)
    if len(tokens) > n_text_ctx:
        raise UsageError(
            f"The prompt and the prefix make {len(tokens)} tokens, the decoder has {n_text_ctx} "
            "positions; shorten the prefix."
        )
    if not all(0 <= token < tokenizer.n_vocab for token in tokens):
        raise UsageError(
            f"The prompt or the prefix holds an id outside of the vocabulary; expected 0 to "
            f"{tokenizer.n_vocab - 1}: the ids are of another tokenizer."
        )
    return Prompt(tokens, sot_index)


def token_ids(tokenizer: Tokenizer, text: str | Iterable[int] | None) -> list[int]:
    """Ids of a text, as if it followed another; ids as they are, none for None."""
    if not text:
        return []
    return tokenizer.encode(" " + text.strip()) if isinstance(text, str) else [int(token) for token in text]
