"""The loop over slots: who enters, who leaves, what is stepped, and that no row notices."""

import numpy as np
import pytest
from schedules import Schedules, reordered

from whisper2max.core.errors import UsageError
from whisper2max.runtime.choice import Allowed, choose_each
from whisper2max.runtime.hypotheses import Hypothesis
from whisper2max.runtime.loop import Decoder, Window
from whisper2max.runtime.options import DecodingOptions


class Script:
    """An engine that says nothing of interest, and a session that notes what it was asked."""

    def __init__(self, dims):
        self.dims, self.asked = dims, []

    def session(self, slots: int, audios: int):
        self.asked.append(("session", slots, audios))
        return self

    def hear(self, mel, audio):
        self.asked.append(("hear", audio))

    def extend(self, tokens, rows, picked):
        used = [set(table[: tokens.shape[1]]) for table in rows.slots]
        self.asked.append(("extend", used, rows.audios.tolist(), tokens.shape[1]))
        return np.zeros((*picked.shape, self.dims.n_vocab), np.float32)

    def step(self, tokens, rows):
        used = [set(table[: position + 1]) for table, position in zip(rows.slots, rows.positions, strict=True)]
        self.asked.append(("step", used, rows.audios.tolist(), rows.positions.tolist()))
        return np.zeros((len(tokens), self.dims.n_vocab), np.float32)

    def choose(self, logits, allowed):
        return choose_each(logits, allowed)


class Counted:
    """A search that samples a number of tokens, in as many rows as it is told."""

    def __init__(self, count: int, parents: list[list[int]] | None = None):
        self.live, self.count, self.parents = [Hypothesis()], count, parents

    def allowed(self):
        return [Allowed(np.empty(0, np.int64)) for _ in self.live]

    def advance(self, choices):
        assert len(choices) == len(self.live)
        self.count -= 1
        parents = [0] if self.parents is None else self.parents.pop(0)
        self.last = Hypothesis([*self.live[0].tokens, 1000])
        self.live = [Hypothesis([*self.live[p].tokens, 1000 + row]) for row, p in enumerate(parents)]
        if not self.count:
            self.live = []
        return parents if self.live else []

    def best(self):
        return self.last


class Queue:
    """Windows with the number of tokens that each says."""

    def __init__(self, counts: list[int], options: DecodingOptions, sounds: list | None = None):
        sound = np.zeros((80, 40), np.float32)
        self.windows = [Window(sound=sound, options=options) for _ in counts]
        self.counts, self.given = counts, 0

    def next(self):
        self.given += 1
        return self.windows[self.given - 1] if self.given <= len(self.windows) else None

    def search(self, rules):
        return Counted(self.counts.pop(0))


ENGLISH = DecodingOptions(language="en")


def test_a_window_that_ends_makes_room_for_the_next_at_once(short_windows, multilingual_tokenizer):
    engine, queue = Script(short_windows.dims), Queue([1, 4, 2, 3], ENGLISH)
    decoder = Decoder(engine, multilingual_tokenizer, 2, search=queue.search)
    assert engine.asked == [], "the session is opened when there is something to hear"
    ended = [queue.windows.index(window) for window, _ in decoder.run(queue)]
    assert ended == [0, 2, 1, 3]
    assert engine.asked == [
        ("session", 2, 2),
        ("hear", 0),
        ("hear", 1),
        ("extend", [{0}, {1}], [0, 1], 3),
        # the first ended with its prompt
        ("hear", 0),
        ("extend", [{0}], [0], 3),
        ("step", [{1}, {0}], [1, 0], [3, 3]),
        # the third ended
        ("hear", 0),
        ("extend", [{0}], [0], 3),
        ("step", [{1}, {0}], [1, 0], [4, 3]),
        ("step", [{1}, {0}], [1, 0], [5, 4]),
    ]


def test_only_rows_that_are_alive_are_stepped(short_windows, multilingual_tokenizer):
    engine, queue = Script(short_windows.dims), Queue([3, 5, 2], ENGLISH)
    list(Decoder(engine, multilingual_tokenizer, 3, search=queue.search).run(queue))
    assert [len(call[1]) for call in engine.asked if call[0] == "step"] == [3, 2, 1, 1]


def test_no_window_is_asked_for_before_there_is_room(short_windows, multilingual_tokenizer):
    queue = Queue([2, 2, 2], ENGLISH)
    windows = Decoder(Script(short_windows.dims), multilingual_tokenizer, 1, search=queue.search).run(queue)
    assert queue.given == 0
    for number in (1, 2, 3):
        next(windows)
        assert queue.given == number, "the result may decide what comes next"


def test_rows_of_one_window_are_reordered_by_their_table(short_windows, multilingual_tokenizer):
    engine, queue = Script(short_windows.dims), Queue([4], ENGLISH)
    parents = [[0, 0, 0], [2, 0], [1, 1, 0], []]
    decoder = Decoder(engine, multilingual_tokenizer, 2, search=lambda rules: Counted(4, parents), rows=3)
    ((_, result),) = decoder.run(queue)
    assert result.tokens
    session, _, extend, *steps = engine.asked
    assert session == ("session", 6, 2)
    assert extend == ("extend", [{0}], [0], 3)
    assert steps == [
        ("step", [{0}, {0, 1}, {0, 2}], [0, 0, 0], [3, 3, 3]),
        ("step", [{0, 2}, {0, 1}], [0, 0], [4, 4]),
        ("step", [{0, 1}, {0, 1}, {0, 2}], [0, 0, 0], [5, 5, 5]),
    ]


def test_the_language_is_detected_in_what_is_decoded(short_windows, multilingual_tokenizer):
    engine = Script(short_windows.dims)
    queue = Queue([1, 1, 1], DecodingOptions())
    results = list(Decoder(engine, multilingual_tokenizer, 2, search=queue.search).run(queue))
    calls = [call[0] for call in engine.asked]
    assert calls == ["session", "hear", "hear", "extend", "extend", "hear", "extend", "extend"]
    assert all(result.language == "en" for _, result in results), "the first of equals"


def test_english_only_models_detect_nothing(random_english, english_tokenizer):
    with pytest.raises(UsageError, match="English-only"):
        Decoder(random_english, english_tokenizer, 1).languages([0])


@pytest.fixture(scope="module")
def schedules(short_windows, multilingual_tokenizer) -> Schedules:
    return Schedules(short_windows, multilingual_tokenizer)


@pytest.mark.parametrize("seeds", [range(first, first + 20) for first in range(0, 200, 20)], ids=lambda r: f"{r[0]}..")
def test_no_window_notices_the_others(schedules, seeds):
    lengths = set()
    for seed in seeds:
        for result, alone in schedules.results(seed):
            assert result == alone
            lengths.add(len(result.tokens))
    assert len(lengths) > 5


@pytest.mark.parametrize("seed", range(3))
def test_reordered_rows_give_the_logits_of_texts_decoded_alone(short_windows, multilingual_tokenizer, seed):
    compared = 0
    for got, alone in reordered(short_windows, multilingual_tokenizer, seed):
        np.testing.assert_array_equal(got, alone)
        compared += 1
    assert compared > 400
