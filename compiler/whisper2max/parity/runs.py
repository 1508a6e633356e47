"""How the graphs are run on a window, the shipped ones and those that give every value alike.

Three sequences are decoded, so that a row that looks into another's slots or hears another's audio gives other values:

    main      the transcript, repeated up to the end of the text context
    branch    the same up to the middle of the text context, and other tokens from there on
    half      the tokens of `main`, heard in an audio that is the first half of the frames, twice

Slots hold what the tables of `calls` say; no row uses the slot of its own number, and one that was never written is
zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from max.driver import Buffer

from whisper2max.parity.figures import Place
from whisper2max.parity.graphs import Decoder, Graphs, Values
from whisper2max.parity.inputs import Transcript
from whisper2max.parity.taps import LOGITS
from whisper2max.runtime.protocol import Rows

MAIN, BRANCH, HALF = "main", "branch", "half"
TOKEN_BY_TOKEN = "1 row, token by token"

_AUDIOS = {MAIN: 1, BRANCH: 1, HALF: 0}
_SLOTS = 6


@dataclass(frozen=True)
class Run:
    """Values of one row of one execution of a graph.

    Attributes:
        place: where they were computed.
        sequence: what the row decodes; None for the encoder.
        values: float32 [1, frames or tokens, width] by path; whoever has judged one takes it out.
        positions: of the tokens in the text context; None where values are of frames.
        picked: the same of the tokens whose logits are among the values.
    """

    place: Place
    sequence: str | None
    values: Values
    positions: np.ndarray | None = None
    picked: np.ndarray | None = None

    def positions_of(self, path: str) -> np.ndarray | None:
        """Positions of the tokens of one value."""
        return self.picked if path == LOGITS else self.positions


@dataclass(frozen=True)
class RowOfCall:
    """One row of an execution.

    Attributes:
        sequence: what it decodes.
        position: of its first token.
        slots: (first position, slot): the slot that holds what lies from there on, up to the next.
    """

    sequence: str
    position: int
    slots: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Call:
    """One execution of `extend` or `step`.

    Attributes:
        graph: its name.
        case: what the report calls it.
        length: tokens of every row.
        rows: what they decode.
        picked: indices within `length` of the tokens whose logits are wanted.
    """

    graph: str
    case: str
    length: int
    rows: tuple[RowOfCall, ...]
    picked: tuple[int, ...]


def calls(transcript: Transcript) -> list[Call]:
    """What is executed one after the other on the same pools."""
    n, early, middle, last = transcript.n_text_ctx, transcript.early, transcript.middle, transcript.last
    rest = n - middle
    forced = {*range(len(transcript.forced)), middle, last}
    # the steps find the caches full: what lies after their position must not be read
    alone = [RowOfCall(MAIN, p, ((0, 3), (p, 4), (p + 1, 3))) for p in sorted({early, middle, last})]
    extended = RowOfCall(BRANCH, middle, ((0, 3), (middle, 1))), RowOfCall(MAIN, early, ((0, 3), (early, 2)))
    reordered = (
        RowOfCall(MAIN, last, ((0, 3), (early, 2), (early + rest, 3), (last, 4))),
        RowOfCall(HALF, rest, ((0, 0), (rest, 5))),
        RowOfCall(BRANCH, last, ((0, 3), (middle, 1), (last, 5))),
    )
    return [
        Call("extend", "1 row", n, (RowOfCall(MAIN, 0, ((0, 3),)),), tuple(sorted(forced))),
        *(Call("step", "1 row", 1, (row,), (0,)) for row in alone),
        Call(
            "extend",
            "3 rows on shared prefixes",
            rest,
            (*extended, RowOfCall(HALF, 0, ((0, 0),))),
            # as many as a transcript has: the error of a few is small or large by luck
            tuple(sorted({*range(0, rest, max(1, rest // 32)), rest // 2, rest - 1})),
        ),
        Call("step", "3 rows, reordered", 1, reordered, (0,)),
    ]


def tokens_of(transcript: Transcript) -> dict[str, np.ndarray]:
    """int64 tokens by sequence."""
    half = transcript.n_text_ctx - transcript.middle + 1
    sequences = {MAIN: transcript.fed, BRANCH: transcript.branch, HALF: transcript.fed[:half]}
    return {name: np.array(tokens, np.int64) for name, tokens in sequences.items()}


def states_of(sequence: str, states: np.ndarray) -> np.ndarray:
    """The audio states that a sequence hears, of those of the window [1, frames, width]."""
    if sequence != HALF:
        return states
    frames = states.shape[1]
    return np.ascontiguousarray(states[:, np.arange(frames) % max(1, frames // 2)])


def run_encoder(graphs: Graphs, mel: np.ndarray, input: str) -> tuple[Buffer, Run]:
    """A handle to the audio states of float32 [n_mels, frames], and the values on the way."""
    states, values = graphs.encode(mel)
    return states, Run(Place(graphs.build, "encoder", input), None, values)


def run_decoder(graphs: Graphs, states: Buffer, input: str, transcript: Transcript) -> Iterator[Run]:
    """Values of every row of every execution."""
    decoder = graphs.decoder(_SLOTS, 1 + max(_AUDIOS.values()))
    heard = states.to_numpy()
    for sequence, case in ((MAIN, None), (HALF, "half the frames, twice")):
        values = decoder.project(graphs.states(states_of(sequence, heard)), _AUDIOS[sequence])
        yield Run(Place(graphs.build, "audio", input, case), sequence, values)
    tokens = tokens_of(transcript)
    for call in calls(transcript):
        fed = np.stack([tokens[row.sequence][row.position : row.position + call.length] for row in call.rows])
        values = _execute(decoder, call, fed, _rows(call.rows, transcript.n_text_ctx))
        for number, row in enumerate(call.rows):
            several = number if len(call.rows) > 1 else None
            yield Run(
                Place(graphs.build, call.graph, input, call.case, several, row.position),
                row.sequence,
                {path: value[number : number + 1] for path, value in values.items()},
                row.position + np.arange(call.length),
                row.position + np.array(call.picked),
            )


class Alone:
    """One row in pools of its own, fed token by token as the runtime does.

    Args:
        graphs: that compute.
        states: the audio states that it hears.
        prompt: the first tokens.

    Attributes:
        logits: after the last token that was fed, float32 [1, n_vocab].
    """

    def __init__(self, graphs: Graphs, states: Buffer, prompt: list[int]):
        self._decoder = graphs.decoder(1, 1)
        self._decoder.project(states, 0)
        self._position = np.zeros(1, np.int64)
        self._slots, self._audios = np.zeros((1, graphs.dims.n_text_ctx), np.int32), np.zeros(1, np.int64)
        picked = np.array([[len(prompt) - 1]], np.int64)
        self.logits = self._decoder.extend(np.array([prompt], np.int64), self._rows(), picked)[LOGITS][:, 0]
        self._position += len(prompt)

    def most_probable(self) -> int:
        """The token that follows, as the graphs choose it."""
        return self._decoder.most_probable(self.logits)[0]

    def feed(self, token: int) -> None:
        """One more token."""
        self.logits = self._decoder.step(np.array([token], np.int64), self._rows())[LOGITS][:, 0]
        self._position += 1

    def _rows(self) -> Rows:
        return Rows(self._position.copy(), self._slots, self._audios)


def run_token_by_token(graphs: Graphs, states: Buffer, input: str, transcript: Transcript) -> Run:
    """Logits of a transcript, float32 [1, n, n_vocab], after the prompt and after each token that is fed then."""
    alone = Alone(graphs, states, transcript.prompt)
    logits = [alone.logits]
    for token in transcript.greedy[:-1]:
        alone.feed(token)
        logits.append(alone.logits)
    first = len(transcript.prompt) - 1
    positions = first + np.arange(len(logits))
    place = Place(graphs.build, "step", input, TOKEN_BY_TOKEN, position=first)
    return Run(place, MAIN, {LOGITS: np.stack(logits, axis=1)}, positions, positions)


def greedy_tokens(graphs: Graphs, states: Buffer, prompt: list[int], limit: int, eot: int) -> list[int]:
    """Most probable tokens after `prompt`, free-running, at most `limit`, up to and including `eot`."""
    alone = Alone(graphs, states, prompt)
    tokens = [alone.most_probable()]
    while len(tokens) < limit and tokens[-1] != eot:
        alone.feed(tokens[-1])
        tokens.append(alone.most_probable())
    return tokens


def _execute(decoder: Decoder, call: Call, tokens: np.ndarray, rows: Rows) -> Values:
    if call.graph == "step":
        return decoder.step(tokens[:, 0], rows)
    return decoder.extend(tokens, rows, np.array([call.picked] * len(tokens), np.int64))


def _rows(planned: Sequence[RowOfCall], n_text_ctx: int) -> Rows:
    slots = np.zeros((len(planned), n_text_ctx), np.int32)
    for row, table in zip(planned, slots, strict=True):
        for first, slot in row.slots:
            table[first:] = slot
    positions = np.array([row.position for row in planned], np.int64)
    return Rows(positions, slots, np.array([_AUDIOS[row.sequence] for row in planned], np.int64))
