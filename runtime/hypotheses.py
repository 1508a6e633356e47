"""What a window may have said: a text on its way, and the result that comes of it."""

import zlib
from dataclasses import dataclass, field

import numpy as np

from whisper2max.runtime.tokens import Tokenizer


@dataclass(frozen=True)
class Ending:
    """Where a text would have ended, had a rule not asked for more.

    Attributes:
        n_tokens: how many it had.
        sum_logprob: of those and of the end.
        before_the_end: of those without the end.
    """

    n_tokens: int
    sum_logprob: np.float32
    before_the_end: np.float32


@dataclass(slots=True)
class Hypothesis:
    """A text on its way.

    Attributes:
        tokens: ids sampled so far, the end of the text included.
        sum_logprob: natural log-probability of all of them.
        last_timestamp: the id of the latest timestamp, None before the first.
        finished: whether no further token is wanted.
        passed: where it would have ended before, None if nowhere.
    """

    tokens: list[int] = field(default_factory=list)
    sum_logprob: np.float32 = np.float32(0)
    last_timestamp: int | None = None
    finished: bool = False
    passed: Ending | None = None

    def end_at(self, ending: Ending, eot: int) -> None:
        """Take back what followed an end that it passed."""
        self.tokens[ending.n_tokens :] = [eot]
        self.sum_logprob = ending.sum_logprob
        self.finished = True


@dataclass(frozen=True)
class DecodingResult:
    """What was said in one window.

    Attributes:
        language: code of the language, given or detected.
        language_probs: probability of each language code; None when the language was given.
        tokens: sampled ids, timestamps included, the end of the text not.
        text: their text, stripped.
        avg_logprob: mean natural log-probability of the tokens and the end.
        no_speech_prob: probability that nobody speaks.
        temperature: always 0, greedy.
        compression_ratio: bytes of the text over its bytes compressed; high when it repeats itself.
    """

    language: str
    language_probs: dict[str, float] | None
    tokens: list[int]
    text: str
    avg_logprob: float
    no_speech_prob: float
    temperature: float
    compression_ratio: float


def decoding_result(
    tokenizer: Tokenizer,
    hypothesis: Hypothesis,
    language: str,
    language_probs: dict[str, float] | None,
    no_speech_prob: float,
) -> DecodingResult:
    """The result of the hypothesis that was chosen."""
    sampled, special = list(hypothesis.tokens), tokenizer.special
    if sampled[-1] == special.eot:
        sampled.pop()
    # upstream leaves out timestamps alone: a language token sampled by mistake stays visible
    spelled = [token for token in sampled if token not in special.timestamps]
    text = tokenizer.decode_with_timestamps(spelled).strip()
    return DecodingResult(
        language=language,
        language_probs=language_probs,
        tokens=sampled,
        text=text,
        avg_logprob=float(hypothesis.sum_logprob) / (len(sampled) + 1),
        no_speech_prob=no_speech_prob,
        temperature=0.0,
        compression_ratio=compression_ratio(text),
    )


def compression_ratio(text: str) -> float:
    """UTF-8 bytes of a text over their number after zlib."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded))
