"""The loop over slots: windows from a queue, as many at once as there are places, each leaving when it ends.

It knows nothing of recordings. Who cuts windows gives them, one at a time, and takes their results; which token comes
next is the search's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Generic, Protocol, TypeVar

import numpy as np

from whisper2max.core.errors import UsageError
from whisper2max.runtime.choice import Choice
from whisper2max.runtime.hypotheses import DecodingResult, decoding_result
from whisper2max.runtime.options import DecodingOptions, check_language
from whisper2max.runtime.prompts import Prompt, initial_prompt
from whisper2max.runtime.protocol import Engine, Logits, Rows, Session
from whisper2max.runtime.rules import EndRule, Rules
from whisper2max.runtime.search import Greedy, MakeSearch, Search
from whisper2max.runtime.tokens import Tokenizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """What the loop decodes.

    Attributes:
        sound: float32 [n_mels, 2 * n_audio_ctx], a log-mel spectrogram; or the number of the audio, where
            `Decoder.hear` has heard it.
        options: how it is decoded.
        end_rule: decides where its text may end, None leaves that to the model.
    """

    sound: np.ndarray | int
    options: DecodingOptions
    end_rule: EndRule | None = None


W_co = TypeVar("W_co", bound=Window, covariant=True)
W = TypeVar("W", bound=Window)


class Windows(Protocol[W_co]):
    """Gives windows."""

    def next(self) -> W_co | None:
        """The next window; None where there is none before a result is taken, or none at all."""


class Decoder:
    """Decodes windows on one session of an engine; used by one thread.

    Args:
        engine: runs the model.
        tokenizer: of the model.
        windows: how many are decoded at once.
        audios: how many that were heard are kept at once, at least one for each of them.
        search: makes the search of a window.
        rows: most rows that the search of one window has at once.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        windows: int,
        audios: int | None = None,
        search: MakeSearch = Greedy,
        rows: int = 1,
    ):
        self._engine, self._tokenizer, self._make_search = engine, tokenizer, search
        self._n_slots, self._n_audios = windows * rows, max(windows, audios or 0)
        # the latest that was freed is taken first: its memory is warm, and there may be some that nobody needs
        self._free_slots = [range(first, first + rows) for first in reversed(range(0, self._n_slots, rows))]
        self._free_audios = list(reversed(range(self._n_audios)))

    @cached_property
    def _session(self) -> Session:
        """Opened when the first window is heard."""
        return self._engine.session(self._n_slots, self._n_audios)

    def hear(self, mel: np.ndarray) -> int:
        """Hears a window, float32 [n_mels, 2 * n_audio_ctx], into a free audio; gives its number."""
        audio = self._free_audios.pop()
        self._session.hear(mel, audio)
        return audio

    def release(self, audio: int) -> None:
        """What was heard is not needed any more."""
        self._free_audios.append(audio)

    def languages(self, audios: Sequence[int]) -> list[dict[str, float]]:
        """The probability of each language in what was heard, from the token that follows the start of the transcript.

        Args:
            audios: numbers from `hear`, no more than windows that may still enter.

        Returns:
            For each audio the probabilities by language code, in the order of the vocabulary; they sum to 1.

        Raises:
            UsageError: the model knows English alone.
        """
        special = self._tokenizer.special
        if not special.multilingual:
            raise UsageError("The language cannot be detected by an English-only model; it transcribes English.")
        n_rows = len(audios)
        slots = np.array([free.start for free in self._free_slots[-n_rows:]], np.int32)
        rows = Rows(
            np.zeros(n_rows, np.int64),
            np.repeat(slots[:, None], self._engine.dims.n_text_ctx, axis=1),
            np.array(audios, np.int64),
        )
        first = np.zeros((n_rows, 1), np.int64)
        logits = self._session.extend(np.full_like(first, special.sot), rows, first)
        found = []
        for (at_sot,) in logits:
            scores = at_sot[list(special.languages.values())]
            probabilities = np.exp(scores - scores.max())
            probabilities /= probabilities.sum()
            found.append(dict(zip(special.languages, probabilities.tolist(), strict=True)))
        return found

    def run(self, windows: Windows[W]) -> Iterator[tuple[W, DecodingResult]]:
        """Every window with its result, as they end; the next ones enter after their results were taken.

        Raises:
            UsageError: an option asks what the model cannot do.
            ArtifactError: the model gives logits that are not numbers.
        """
        under_way: list[_UnderWay[W]] = []
        while True:
            entering = self._enter(windows)
            if entering:
                self._prompt(entering)
            elif under_way:
                self._step(under_way)
            else:
                return
            under_way += entering
            ended = [each for each in under_way if not each.search.live]
            under_way = [each for each in under_way if each.search.live]
            for each in ended:
                self._free_slots.append(each.slots)
                self.release(each.audio)
                yield each.window, each.result(self._tokenizer)

    def _enter(self, windows: Windows[W]) -> "list[_UnderWay[W]]":
        """The next windows, heard, as many as there is room for."""
        tokenizer, n_text_ctx = self._tokenizer, self._engine.dims.n_text_ctx
        entering: list[tuple[W, int]] = []
        while len(entering) < len(self._free_slots) and (window := windows.next()) is not None:
            sound = window.sound
            entering.append((window, sound if isinstance(sound, int) else self.hear(sound)))
        if not entering:
            return []
        languages = [check_language(tokenizer, each.options.language, each.options.task) for each, _ in entering]
        unknown = [audio for (_, audio), language in zip(entering, languages, strict=True) if language is None]
        detected = iter(self.languages(unknown) if unknown else ())
        under_way = []
        for (window, audio), language in zip(entering, languages, strict=True):
            probabilities = None
            if language is None:
                probabilities = next(detected)
                language = max(probabilities, key=probabilities.__getitem__)
            prompt = initial_prompt(tokenizer, n_text_ctx, window.options, language)
            rules = Rules(tokenizer, n_text_ctx, window.options, len(prompt.tokens), window.end_rule)
            search, slots = self._make_search(rules), self._free_slots.pop()
            under_way.append(_UnderWay(window, audio, slots, prompt, search, n_text_ctx, language, probabilities))
        return under_way

    def _prompt(self, entering: "list[_UnderWay[W]]") -> None:
        """The prompts of windows that enter, each in one row."""
        prompts = [each.prompt for each in entering]
        tokens = np.full((len(prompts), max(len(p.tokens) for p in prompts)), self._tokenizer.special.eot, np.int64)
        for padded, prompt in zip(tokens, prompts, strict=True):
            padded[: len(prompt.tokens)] = prompt.tokens
        picked = np.array([(prompt.sot_index, len(prompt.tokens) - 1) for prompt in prompts], np.int64)
        rows = Rows(
            np.zeros(len(prompts), np.int64),
            np.concatenate([each.table[:1] for each in entering]),
            np.array([each.audio for each in entering], np.int64),
        )
        logits = self._session.extend(tokens, rows, picked)
        for each, at_sot in zip(entering, logits[:, 0], strict=True):
            each.no_speech_prob = _probability(at_sot, self._tokenizer.special.no_speech)
        self._advance(entering, logits[:, 1])

    def _step(self, under_way: "list[_UnderWay[W]]") -> None:
        """The next tokens of all windows; the rows of a window are neighbours."""
        n_rows = [len(each.search.live) for each in under_way]
        rows = Rows(
            np.repeat([each.position for each in under_way], n_rows),
            np.concatenate([each.table[:count] for each, count in zip(under_way, n_rows, strict=True)]),
            np.repeat([each.audio for each in under_way], n_rows),
        )
        tokens = np.array([hypothesis.tokens[-1] for each in under_way for hypothesis in each.search.live], np.int64)
        self._advance(under_way, self._session.step(tokens, rows))

    def _advance(self, under_way: "list[_UnderWay[W]]", logits: Logits) -> None:
        """Takes the next tokens of all windows."""
        allowed = [each.search.allowed() for each in under_way]
        choices = iter(self._session.choose(logits, [row for rows in allowed for row in rows]))
        for each, rows in zip(under_way, allowed, strict=True):
            each.advance(list(islice(choices, len(rows))))


class _UnderWay(Generic[W]):
    """A window that is being decoded.

    Attributes:
        slots: its own; what row r has new is stored in the r-th of them.
        table: int32 [rows, n_text_ctx], the slot that holds each position of each row.
        position: where the next token of every row goes.
    """

    def __init__(
        self,
        window: W,
        audio: int,
        slots: range,
        prompt: Prompt,
        search: Search,
        n_text_ctx: int,
        language: str,
        language_probs: dict[str, float] | None,
    ):
        self.window, self.audio, self.slots, self.prompt, self.search = window, audio, slots, prompt, search
        self.language, self.language_probs = language, language_probs
        self.no_speech_prob = np.nan
        self.table = np.full((len(slots), n_text_ctx), slots.start, np.int32)
        self.position = len(prompt.tokens) - 1

    def advance(self, choices: Sequence[Choice]) -> None:
        """Takes the next token of each row; reordered rows keep what they share where it is."""
        parents = self.search.advance(choices)
        self.position += 1
        n_rows = len(parents)
        if len(self.slots) > 1 and n_rows:
            self.table[:n_rows] = self.table[parents]
            # no other row, now or before, has stored this position in this row's slot
            self.table[:n_rows, self.position] = self.slots[:n_rows]

    def result(self, tokenizer: Tokenizer) -> DecodingResult:
        return decoding_result(
            tokenizer, self.search.best(), self.language, self.language_probs, self.no_speech_prob
        )


def _probability(logits: np.ndarray, token: int) -> float:
    scores = np.exp(logits - logits.max())
    return float(scores[token] / scores.sum())
