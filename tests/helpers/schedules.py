"""Windows that come and go at random, and rows that share and reorder at random, on any engine.

What a window or a row gives must not depend on who shares the batch, on what the slots held before, or on the order in
which windows come: whoever tests an engine compares with what each gives alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from whisper2max.runtime.choice import Allowed
from whisper2max.runtime.decoding import decode
from whisper2max.runtime.hypotheses import DecodingResult, Hypothesis
from whisper2max.runtime.loop import Decoder, Window
from whisper2max.runtime.options import DecodingOptions
from whisper2max.runtime.prompts import initial_prompt
from whisper2max.runtime.protocol import Engine, Rows, Session
from whisper2max.runtime.tokens import Tokenizer

AT_ONCE = (1, 2, 3, 5, 8)


def any_sound(engine: Engine, rng: np.random.Generator) -> np.ndarray:
    """float32 [n_mels, 2 * n_audio_ctx]: noise in the range of log-mel spectrograms."""
    return rng.normal(0, 0.5, (engine.dims.n_mels, engine.dims.n_frames)).astype(np.float32)


def any_options(tokenizer: Tokenizer, rng: np.random.Generator, most_sampled: int) -> DecodingOptions:
    """Options of any window: short and long prompts, languages given or not, few tokens or more."""
    languages = [*list(tokenizer.special.languages)[:5], None] if tokenizer.special.multilingual else ["en"]
    prompt = rng.integers(0, 50_000, rng.choice([0, 0, 3, 40, 300])).tolist()
    return DecodingOptions(
        language=languages[rng.integers(len(languages))],
        prompt=prompt,
        prefix=rng.integers(0, 50_000, rng.choice([0, 0, 4])).tolist(),
        without_timestamps=bool(rng.integers(0, 4) == 0),
        suppress_blank=bool(rng.integers(0, 2)),
        sample_len=int(rng.integers(1, most_sampled + 1)),
    )


class Schedules:
    """Windows, what each says alone, and schedules in which they share sessions that are never emptied.

    Attributes:
        windows: all that schedules are made of.
        alone: the result of each, decoded in a session of its own.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, n_windows: int = 16, most_sampled: int = 16):
        rng = np.random.default_rng(0)
        self.windows = [
            Window(sound=any_sound(engine, rng), options=any_options(tokenizer, rng, most_sampled))
            for _ in range(n_windows)
        ]
        self.alone: list[DecodingResult] = [
            decode(engine, tokenizer, each.sound[None], [each.options])[0] for each in self.windows
        ]
        self._decoders = {at_once: Decoder(engine, tokenizer, at_once) for at_once in AT_ONCE}

    def results(self, seed: int) -> Iterator[tuple[DecodingResult, DecodingResult]]:
        """One schedule: what each of its windows says among the others, and what it says alone."""
        rng = np.random.default_rng(seed)
        decoder = self._decoders[AT_ONCE[rng.integers(len(AT_ONCE))]]
        chosen = rng.permutation(len(self.windows))[: rng.integers(2, 9)].tolist()
        coming = _Coming([self.windows[number] for number in chosen], rng)
        alone = {self.windows[number]: self.alone[number] for number in chosen}
        for window, result in decoder.run(coming):
            coming.under_way -= 1
            yield result, alone.pop(window)
        assert not alone, "every window is decoded"


class _Coming:
    """Windows of which the next one is now and then not there yet."""

    def __init__(self, windows: list[Window], rng: np.random.Generator):
        self._windows, self._rng = windows, rng
        self.under_way = 0

    def next(self) -> Window | None:
        if not self._windows or (self.under_way and self._rng.random() < 0.4):
            return None
        self.under_way += 1
        return self._windows.pop()


@dataclass(frozen=True)
class Overheard:
    """Instead of a choice the logits that there were to choose from, float32 [n_vocab]."""

    logits: np.ndarray


class Overhearing:
    """An engine whose sessions give the logits instead of a choice."""

    def __init__(self, engine: Engine):
        self._engine, self.dims = engine, engine.dims

    def features(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        return self._engine.features(samples, padding)

    def session(self, slots: int, audios: int) -> Session:
        session = self._engine.session(slots, audios)
        session.choose = lambda logits, allowed: [
            Overheard(row.copy()) for row, _ in zip(logits, allowed, strict=True)
        ]
        return session


class AnyParents:
    """A search that takes any tokens, and drops, shares and reorders its rows at random.

    Attributes:
        seen: every text that it went through, and the logits that followed it, float32 [n_vocab].
    """

    def __init__(self, rng: np.random.Generator, rows: int, steps: int):
        self.live = [Hypothesis()]
        self.seen: list[tuple[list[int], np.ndarray]] = []
        self._rng, self._rows, self._left = rng, rows, steps
        self._latest = self.live[0]

    def allowed(self) -> list[Allowed]:
        return [Allowed(np.empty(0, np.int64)) for _ in self.live]

    def advance(self, choices: Sequence["Overheard"]) -> list[int]:
        self.seen += [(each.tokens, choice.logits) for each, choice in zip(self.live, choices, strict=True)]
        self._left -= 1
        n_rows = self._rng.integers(1, self._rows + 1) if self._left >= 0 else 0
        parents = self._rng.integers(0, len(self.live), n_rows).tolist()
        tokens = self._rng.integers(0, 50_000, n_rows).tolist()
        self.live = [Hypothesis([*self.live[p].tokens, token]) for p, token in zip(parents, tokens, strict=True)]
        self._latest = self.live[0] if self.live else self._latest
        return parents

    def best(self) -> Hypothesis:
        return self._latest


def reordered(
    engine: Engine, tokenizer: Tokenizer, seed: int, steps: int = 100, rows: int = 5, checked: int = 3
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Logits that rows gave while they were reordered, and those of the same text decoded alone, one row, step by step.

    Three of four windows are decoded at once, so one enters where another left.

    Args:
        engine: runs the model.
        tokenizer: of the model.
        seed: of sounds, prompts, tokens and parents.
        steps: most tokens of a row.
        rows: most rows of a window.
        checked: texts of each window to decode alone; the longest, then any.
    """
    rng = np.random.default_rng(seed)
    windows = []
    for _ in range(4):
        prompt = rng.integers(0, 50_000, rng.integers(0, 20)).tolist()
        options = DecodingOptions(language="en", prompt=prompt, without_timestamps=True)
        windows.append(Window(sound=any_sound(engine, rng), options=options))
    searches: list[AnyParents] = []

    def search(rules) -> AnyParents:
        searches.append(AnyParents(rng, rows, steps - 7 * len(searches)))
        return searches[-1]

    coming = iter(windows)
    decoder = Decoder(Overhearing(engine), tokenizer, 3, search=search, rows=rows)
    assert len(dict(decoder.run(_All(coming)))) == len(windows)
    for window, made in zip(windows, searches, strict=True):
        seen = {tuple(tokens): logits for tokens, logits in made.seen}
        ends = sorted(seen, key=len)
        texts = [ends[-1], *(ends[number] for number in rng.integers(0, len(ends), checked - 1))]
        prompt = initial_prompt(tokenizer, engine.dims.n_text_ctx, window.options, "en").tokens
        for text in texts:
            for length, logits in enumerate(_alone(engine, window.sound, prompt, text)):
                yield seen[text[:length]], logits


class _All:
    def __init__(self, windows: Iterator[Window]):
        self._windows = windows

    def next(self) -> Window | None:
        return next(self._windows, None)


def _alone(engine: Engine, sound: np.ndarray, prompt: list[int], text: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Logits after the prompt and after every token of a text."""
    session, n_text_ctx = engine.session(1, 1), engine.dims.n_text_ctx
    session.hear(sound, 0)
    tokens, last = np.array([prompt], np.int64), np.array([[len(prompt) - 1]], np.int64)
    yield session.extend(tokens, Rows.apart([0], [0], n_text_ctx), last)[0, 0]
    for position, token in enumerate(text, len(prompt)):
        yield session.step(np.array([token], np.int64), Rows.apart([position], [0], n_text_ctx))[0]
