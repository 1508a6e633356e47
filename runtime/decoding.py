"""Greedy decoding of encoded windows, several at once, under Whisper's rules about timestamps and silence.

Names and behaviour follow openai-whisper's `whisper/decoding.py` at temperature 0. What differs is the batch: each row
has its own options, so its own prompt length and its own end. And a window that no other follows can be asked for what
the model would leave to the next one (`must_reach`).
"""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whisper2max.core.errors import ArtifactError, UsageError
from whisper2max.runtime.languages import AUTO, language_code
from whisper2max.runtime.tokens import SECONDS_PER_TIMESTAMP, Tokenizer

# What openai-whisper takes for a failure: a mean log-probability below, a compression ratio above.
UNSURE_LOGPROB, REPETITIVE_RATIO = -1.0, 2.4


@dataclass(frozen=True)
class DecodingOptions:
    """How one window is decoded; all names but the last two are openai-whisper's.

    Attributes:
        task: "transcribe", or "translate" into English.
        language: code or English name of the spoken language; None or "auto" detects it.
        sample_len: most tokens to sample; None is half of the decoder's positions.
        prompt: text or token ids of what was said before the window.
        prefix: text or token ids that the transcript of the window begins with; not part of the result.
        suppress_tokens: ids never to sample; -1 stands for those that no speech contains. None or nothing
            suppresses nothing, anything else the special tokens too.
        suppress_blank: whether the transcript may not begin with `begin_suppress_tokens`.
        without_timestamps: whether to sample text alone.
        max_initial_timestamp: the latest time in seconds at which speech may begin; None or 0 is no limit.
        must_reach: where the text would end with the beginning of a segment before this time in seconds, as if the
            next window heard it, that segment is told in this one if the model is sure of it; None leaves it out.
        begin_suppress_tokens: ids that the transcript may not begin with; None is a space alone and the end.
    """

    task: str = "transcribe"
    language: str | None = None
    sample_len: int | None = None
    prompt: str | Sequence[int] | None = None
    prefix: str | Sequence[int] | None = None
    suppress_tokens: Sequence[int] | None = (-1,)
    suppress_blank: bool = True
    without_timestamps: bool = False
    max_initial_timestamp: float | None = 1.0
    must_reach: float | None = None
    begin_suppress_tokens: Sequence[int] | None = None


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


def compression_ratio(text: str) -> float:
    """UTF-8 bytes of a text over their number after zlib."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded))


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


def check_options(tokenizer: Tokenizer, n_text_ctx: int, options: DecodingOptions) -> None:
    """Raises the UsageError that `decode` would raise for these options."""
    language = check_language(tokenizer, options.language, options.task)
    _Row(tokenizer, n_text_ctx, options, language or "en")


def detect_language(engine, states, tokenizer: Tokenizer) -> list[dict[str, float]]:
    """The probability of each language, from the token that follows the start of the transcript.

    Args:
        engine: runs the model.
        states: encoder states of a batch of windows, as `engine.encode` returns them.

    Returns:
        For each row the probabilities by language code, in the order of the vocabulary; they sum to 1.

    Raises:
        UsageError: the model knows English alone.
    """
    special = tokenizer.special
    if not special.multilingual:
        raise UsageError("The language cannot be detected by an English-only model; it transcribes English.")
    tokens = np.full((states.shape[0], 1), special.sot, np.int64)
    logits, _ = engine.prompt(states, tokens, np.zeros_like(tokens))
    logits = np.asarray(logits)[:, 0, list(special.languages.values())]
    probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    return [dict(zip(special.languages, row, strict=True)) for row in probs.tolist()]


def decode(engine, states, tokenizer: Tokenizer, options: Sequence[DecodingOptions]) -> list[DecodingResult]:
    """Decodes a batch of encoded windows, each as it would be decoded alone.

    Args:
        engine: runs the model.
        states: encoder states of a batch of windows, as `engine.encode` returns them.
        options: one for each row.

    Raises:
        UsageError: an option asks what the model cannot do.
        ArtifactError: the model gives logits that are not numbers.
    """
    if len(options) != states.shape[0]:
        raise UsageError(f"{len(options)} decoding options for {states.shape[0]} windows; give one for each.")
    languages = [check_language(tokenizer, option.language, option.task) for option in options]
    language_probs = [None] * len(options)
    if None in languages:
        detected = detect_language(engine, states, tokenizer)
        for row, language in enumerate(languages):
            if language is None:
                language_probs[row] = detected[row]
                languages[row] = max(detected[row], key=detected[row].get)
    n_text_ctx = engine.dims.n_text_ctx
    rows = [_Row(tokenizer, n_text_ctx, *of_row) for of_row in zip(options, languages, strict=True)]
    _main_loop(engine, states, tokenizer, rows)
    return [row.result(probs) for row, probs in zip(rows, language_probs, strict=True)]


def _main_loop(engine, states, tokenizer: Tokenizer, rows: "list[_Row]") -> None:
    tokens = np.full((len(rows), max(len(row.tokens) for row in rows)), tokenizer.special.eot, np.int64)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row.tokens)] = row.tokens
    picked = np.array([(row.sot_index, len(row.tokens) - 1) for row in rows], np.int64)
    logits, session = engine.prompt(states, tokens, picked)
    logits = np.asarray(logits)
    for row, at_sot in zip(rows, logits[:, 0], strict=True):
        row.no_speech_prob = _probability(at_sot, tokenizer.special.no_speech)
    logits = logits[:, 1]
    while True:
        for row, row_logits in zip(rows, logits, strict=True):
            if not row.finished:
                row.sample(row_logits)
        if all(row.finished for row in rows):
            return
        # a finished row goes on at position 0, where attention to its own tokens costs least
        positions = np.array([0 if row.finished else len(row.tokens) - 1 for row in rows], np.int64)
        logits = np.asarray(session.step(np.array([row.tokens[-1] for row in rows], np.int64), positions))


class _Row:
    """One window on its way through the batch.

    Attributes:
        tokens: the prompt and the tokens sampled so far, the end of the text included.
        sample_begin: length of the prompt.
        sot_index: where in the prompt the transcript starts.
        last_timestamp: the latest timestamp sampled, None before the first.
        rest: where the text would have ended but for `must_reach`, its log-probability up to there, and of the end.
        finished: whether no further token is wanted.
    """

    def __init__(self, tokenizer: Tokenizer, n_text_ctx: int, options: DecodingOptions, language: str):
        self.language = language
        self.tokenizer = tokenizer
        self.special = tokenizer.special
        self.n_text_ctx = n_text_ctx
        self.sample_len = options.sample_len or n_text_ctx // 2
        self.timestamps = self.special.timestamps
        # the ids that follow rules of their own; without timestamps the whole vocabulary is text
        self.ruled = slice(0, 0) if options.without_timestamps else slice(self.timestamps.start, self.timestamps.stop)
        self.tokens, self.sot_index = self._initial_tokens(tokenizer, options)
        self.sample_begin = len(self.tokens)
        self.suppressed = _suppressed(tokenizer, options)
        self.begin_suppressed = _begin_suppressed(tokenizer, options)
        self.latest_initial_timestamp = self.timestamps[-1]
        if options.max_initial_timestamp:
            steps = round(options.max_initial_timestamp / SECONDS_PER_TIMESTAMP)
            self.latest_initial_timestamp = min(self.timestamps.start + steps, self.timestamps[-1])
        self.must_reach = self.special.timestamp_begin + (options.must_reach or 0.0) / SECONDS_PER_TIMESTAMP
        self.last_timestamp = None
        self.rest = None
        self.sum_logprob = np.float32(0)
        self.no_speech_prob = np.nan
        self.finished = False

    def _initial_tokens(self, tokenizer: Tokenizer, options: DecodingOptions) -> tuple[list[int], int]:
        tokens = list(tokenizer.sot_sequence(self.language, options.task))
        if options.without_timestamps:
            tokens.append(self.special.no_timestamps)
        sot_index = 0
        if prefix := _ids(tokenizer, options.prefix):
            room = self.n_text_ctx // 2 - self.sample_len
            tokens += prefix[-room:] if room > 0 else prefix
        if prompt := _ids(tokenizer, options.prompt):
            prompt = prompt[-(self.n_text_ctx // 2 - 1) :]
            tokens = [self.special.sot_prev, *prompt, *tokens]
            sot_index = 1 + len(prompt)
        if len(tokens) > self.n_text_ctx:
            raise UsageError(
                f"The prompt and the prefix make {len(tokens)} tokens, the decoder has {self.n_text_ctx} "
                "positions; shorten the prefix."
            )
        if not all(0 <= token < tokenizer.n_vocab for token in tokens):
            raise UsageError(
                f"The prompt or the prefix holds an id outside of the vocabulary; expected 0 to "
                f"{tokenizer.n_vocab - 1}: the ids are of another tokenizer."
            )
        return tokens, sot_index

    def sample(self, scores: np.ndarray) -> None:
        """Appends the most probable token that the rules allow.

        Args:
            scores: logits, float32 [n_vocab], overwritten: a copy would push them out of the cache.
        """
        scores[self.suppressed] = -np.inf
        if len(self.tokens) == self.sample_begin:
            scores[self.begin_suppressed] = -np.inf
        timestamps = scores[self.ruled]
        if timestamps.size:
            self._apply_timestamp_rules(scores)
        token = int(scores.argmax())
        if not math.isfinite(scores[token]):
            raise ArtifactError(
                f"No token may stand at position {len(self.tokens)}, the highest logit is {scores[token]}: "
                "suppress_tokens holds all that may follow, or the model is damaged; verify the artifact."
            )
        candidates = scores
        # one of the timestamps is sampled if together they are more probable than any text
        if timestamps.size and (token in self.timestamps or _log_sum_exp(timestamps) > scores[token]):
            token = self.timestamps.start + int(timestamps.argmax())
            candidates = timestamps
        candidates -= scores[token]
        self.sum_logprob -= np.log(np.exp(candidates, out=candidates).sum())
        self.tokens.append(token)
        if token in self.timestamps:
            self.last_timestamp = token
        n_sampled = len(self.tokens) - self.sample_begin
        self.finished = token == self.special.eot or n_sampled >= self.sample_len or len(self.tokens) > self.n_text_ctx
        if self.rest is not None:
            self._judge_rest()

    def _apply_timestamp_rules(self, scores: np.ndarray) -> None:
        """Rules out what may not follow, in place."""
        begin, end, eot = self.timestamps.start, self.timestamps.stop, self.special.eot
        n_sampled = len(self.tokens) - self.sample_begin
        if n_sampled == 0:
            scores[:begin] = -np.inf
            scores[self.latest_initial_timestamp + 1 :] = -np.inf
            return
        last_was_timestamp = self.tokens[-1] in self.timestamps
        penultimate_was_timestamp = n_sampled < 2 or self.tokens[-2] in self.timestamps
        if last_was_timestamp and penultimate_was_timestamp:
            scores[begin:end] = -np.inf
            if n_sampled > 1 and self.last_timestamp < self.must_reach and scores.argmax() == eot:
                if self.rest is None:
                    self.rest = len(self.tokens), self.sum_logprob, scores[eot] - _log_sum_exp(scores)
                scores[eot] = -np.inf
        elif last_was_timestamp:
            # a segment may begin where the last one ended
            scores[:eot] = -np.inf
            scores[end:] = -np.inf
            scores[begin : self.last_timestamp] = -np.inf
        elif self.last_timestamp is not None:
            # but may not end where it began
            scores[begin : self.last_timestamp + 1] = -np.inf

    def _judge_rest(self) -> None:
        """Ends the text where it would have ended, once what followed proves to be guessed."""
        end, logprob, logprob_of_end = self.rest
        told = [token for token in self.tokens[end:] if token != self.special.eot]
        closed = told[-1] in self.timestamps
        text = self.tokenizer.decode(told)
        failed = compression_ratio(text) > REPETITIVE_RATIO or (self.finished and not closed)
        if failed or (closed and self.sum_logprob - logprob < UNSURE_LOGPROB * len(told)):
            self.tokens[end:] = [self.special.eot]
            self.sum_logprob = logprob + logprob_of_end
            self.finished = True

    def result(self, language_probs: dict[str, float] | None) -> DecodingResult:
        sampled = self.tokens[self.sample_begin :]
        if sampled[-1] == self.special.eot:
            sampled.pop()
        # upstream leaves out timestamps alone: a language token sampled by mistake stays visible
        spelled = [token for token in sampled if token not in self.timestamps]
        text = self.tokenizer.decode_with_timestamps(spelled).strip()
        return DecodingResult(
            language=self.language,
            language_probs=language_probs,
            tokens=sampled,
            text=text,
            avg_logprob=float(self.sum_logprob) / (len(sampled) + 1),
            no_speech_prob=self.no_speech_prob,
            temperature=0.0,
            compression_ratio=compression_ratio(text),
        )


def _ids(tokenizer: Tokenizer, text: str | Iterable[int] | None) -> list[int]:
    if not text:
        return []
    return tokenizer.encode(" " + text.strip()) if isinstance(text, str) else [int(token) for token in text]


def _suppressed(tokenizer: Tokenizer, options: DecodingOptions) -> np.ndarray:
    """int64 ids of what is never sampled."""
    special = tokenizer.special
    never = set(tokenizer.padding)
    if not options.without_timestamps:
        never.add(special.no_timestamps)
    if suppressed := set(options.suppress_tokens or ()):
        if -1 in suppressed:
            suppressed = {token for token in suppressed if token >= 0}.union(tokenizer.non_speech_tokens())
        _require_ids("suppress_tokens", suppressed, tokenizer, ", or -1 for those that no speech contains")
        never |= suppressed
        never |= {special.transcribe, special.translate, special.sot, special.sot_prev}
        never |= {special.sot_lm, special.no_speech}
    return np.array(sorted(never), np.int64)


def _begin_suppressed(tokenizer: Tokenizer, options: DecodingOptions) -> list[int]:
    """Ids of what is not sampled first."""
    if not options.suppress_blank:
        return []
    if options.begin_suppress_tokens is None:
        return tokenizer.begin_suppress_tokens()
    _require_ids("begin_suppress_tokens", options.begin_suppress_tokens, tokenizer)
    return list(options.begin_suppress_tokens)


def _require_ids(name: str, ids: Iterable[int], tokenizer: Tokenizer, also: str = "") -> None:
    outside = sorted(token for token in ids if not 0 <= token < tokenizer.n_vocab)
    if outside:
        raise UsageError(f"{name} holds {outside[0]}; expected ids from 0 to {tokenizer.n_vocab - 1}{also}.")


def _log_sum_exp(scores: np.ndarray) -> float:
    """The logarithm of the sum of the exponentials; minus infinity where nothing may be sampled."""
    highest = scores.max(initial=-np.inf)
    if highest == -np.inf:
        return -math.inf
    return highest + np.log(np.exp(scores - highest).sum())


def _probability(logits: np.ndarray, token: int) -> float:
    scores = np.exp(logits - logits.max())
    return float(scores[token] / scores.sum())
