"""The plan of executions, on a decoder that only remembers: what every row would read is what it should have read."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from max.driver import Buffer

from whisper2max.core.dims import ModelDimensions
from whisper2max.parity.inputs import Transcript
from whisper2max.parity.runs import (
    BRANCH,
    HALF,
    MAIN,
    calls,
    greedy_tokens,
    run_decoder,
    run_token_by_token,
    states_of,
    tokens_of,
)
from whisper2max.parity.taps import LOGITS

DIMS = ModelDimensions(80, 6, 4, 2, 1, 100, 448, 4, 2, 1)
TRANSCRIPT = Transcript([90, 91, 92, 93], [5, 6, 7, 8, 9, 10, 99], 448)
STATES = np.arange(24, dtype=np.float32).reshape(1, 6, 4)


@dataclass
class Remembering:
    """A decoder whose logits are all the tokens that it read for a position, and what the row hears."""

    cache: dict[tuple[int, int], int] = field(default_factory=dict)
    heard: dict[int, np.ndarray] = field(default_factory=dict)
    read: list[tuple[list[int], bytes]] = field(default_factory=list)

    def project(self, states, audio):
        self.heard[audio] = states.to_numpy().copy()
        return {"decoder.blocks.0.cross_attn.key": self.heard[audio]}

    def extend(self, tokens, rows, picked):
        logits = np.zeros((*picked.shape, DIMS.n_vocab), np.float32)
        for row, fed in enumerate(tokens):
            first = rows.positions[row]
            for p, token in enumerate(fed, first):
                self.cache[int(rows.slots[row, p]), p] = int(token)
            for n, index in enumerate(picked[row]):
                before = [self.cache.get((int(rows.slots[row, p]), p), -1) for p in range(first + index + 1)]
                self.read.append((before, self.heard[int(rows.audios[row])].tobytes()))
                logits[row, n, (before[-1] + 1) % DIMS.n_vocab] = 1
        return {LOGITS: logits, "decoder.ln": tokens[..., None].astype(np.float32)}

    def step(self, tokens, rows):
        return self.extend(tokens[:, None], rows, np.zeros((len(tokens), 1), np.int64))

    def most_probable(self, logits):
        return logits.argmax(-1).tolist()


@dataclass
class RememberingGraphs:
    build: str = "tapped"
    dims: ModelDimensions = DIMS
    opened: list[Remembering] = field(default_factory=list)

    def states(self, values):
        return Buffer.from_numpy(values)

    def decoder(self, slots, audios):
        self.opened.append(Remembering())
        return self.opened[-1]


@pytest.fixture
def graphs():
    return RememberingGraphs()


def test_every_row_reads_its_own_sequence_and_audio(graphs):
    runs = [run for run in run_decoder(graphs, Buffer.from_numpy(STATES), "clip", TRANSCRIPT)]
    sequences, read = tokens_of(TRANSCRIPT), iter(graphs.opened[0].read)
    for run in runs:
        if run.place.graph == "audio":
            continue
        assert run.values[LOGITS].shape == (1, len(run.picked), DIMS.n_vocab)
        assert run.values["decoder.ln"][0, :, 0].tolist() == sequences[run.sequence][run.positions].tolist()
        for position in run.picked:
            before, heard = next(read)
            assert before == sequences[run.sequence][: position + 1].tolist(), run.place
            assert heard == states_of(run.sequence, STATES).tobytes()
    assert next(read, None) is None


def test_wrong_tables_and_audios_would_be_seen():
    """Sequences differ before every position that is judged in several rows, and no row has the slot of its number."""
    sequences = tokens_of(TRANSCRIPT)
    several = [call for call in calls(TRANSCRIPT) if len(call.rows) > 1]
    assert [(call.graph, len(call.rows)) for call in several] == [("extend", 3), ("step", 3)]
    for call in several:
        for number, row in enumerate(call.rows):
            assert number not in {slot for _, slot in row.slots}
        assert len({row.sequence for row in call.rows}) == 3
    half = TRANSCRIPT.middle
    assert sequences[BRANCH][:half].tolist() == sequences[MAIN][:half].tolist()
    assert (sequences[BRANCH][half:] != sequences[MAIN][half:]).all()
    assert sequences[HALF].tolist() == sequences[MAIN][: len(sequences[HALF])].tolist()
    np.testing.assert_array_equal(states_of(HALF, STATES), STATES[:, [0, 1, 2, 0, 1, 2]])
    assert states_of(BRANCH, STATES) is STATES


def test_early_middle_and_last_positions_are_judged_with_one_row_and_with_several():
    positions = {}
    for call in calls(TRANSCRIPT):
        found = positions.setdefault((call.graph, len(call.rows)), set())
        found |= {row.position + picked for row in call.rows for picked in call.picked}
    assert {4, 224, 447} <= positions["extend", 1] and {4, 224, 447} <= positions["extend", 3]
    assert positions["step", 1] == {4, 224, 447} and positions["step", 3] == {224, 447}


@pytest.mark.parametrize("n_text_ctx", [8, 20, 447])
def test_other_contexts_are_filled_too(n_text_ctx):
    transcript = Transcript([90, 91, 92, 93], [5, 6, 7, 99], n_text_ctx)
    for call in calls(transcript):
        for row in call.rows:
            assert row.position + call.length <= len(tokens_of(transcript)[row.sequence]) <= n_text_ctx
            assert max(call.picked) < call.length


def test_a_transcript_is_fed_token_by_token(graphs):
    run = run_token_by_token(graphs, Buffer.from_numpy(STATES), "clip", TRANSCRIPT)
    assert [len(before) for before, _ in graphs.opened[0].read] == list(range(4, 11))
    assert graphs.opened[0].read[-1][0] == TRANSCRIPT.forced
    assert run.picked.tolist() == list(range(3, 10)) and run.values[LOGITS].shape == (1, 7, DIMS.n_vocab)


def test_greedy_tokens_end_with_end_of_text_or_at_the_limit(graphs):
    states = Buffer.from_numpy(STATES)
    assert greedy_tokens(graphs, states, [1, 2], 50, 5) == [3, 4, 5]
    assert greedy_tokens(graphs, states, [1, 2], 2, 5) == [3, 4]
