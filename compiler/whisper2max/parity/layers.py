"""Layer by layer: every value of the tapped graphs against float64, beside torch float32's own error."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whisper2max.core.errors import ParityError
from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.case import Transcript, Window, step_positions
from whisper2max.parity.figures import measure, require_usable
from whisper2max.parity.reference import Reference
from whisper2max.parity.report import Row
from whisper2max.parity.rows import compare
from whisper2max.parity.tapped import TappedGraphs, Values
from whisper2max.parity.taps import LOGITS, encoder_taps, prompt_taps, step_taps
from whisper2max.parity.tolerances import Tolerances


@dataclass(frozen=True)
class Outcome:
    """What the references computed on one recording, for judging the shipped graphs by.

    Attributes:
        states: audio states of the judge, float64 [1, n_audio_ctx, n_audio_state], and of the witness.
        logits: of the judge on the forced tokens, float64 [1, length, n_vocab], and of the witness.
        transcript: the tokens that were fed.
    """

    states: tuple[np.ndarray, np.ndarray]
    logits: tuple[np.ndarray, np.ndarray]
    transcript: Transcript


@dataclass(frozen=True)
class References:
    """The two torch runs of one network.

    Attributes:
        judge: in float64.
        witness: in float32.
    """

    judge: Reference
    witness: Reference


@dataclass
class Judgement:
    """Makes the rows of one recording.

    Attributes:
        references: where a path lies in the source tree, and what the references are called.
        limits: of the dtype.
        input: name of the recording.
        rows: made so far.
        keep: told every row with its float64 reference; None if nobody wants to know.
    """

    references: References
    limits: Tolerances
    input: str
    rows: list[Row]
    keep: Callable[[Row, np.ndarray], None] | None = None

    def add(
        self,
        path: str,
        build: str,
        graph: str,
        got: np.ndarray,
        witness: np.ndarray,
        judge: np.ndarray,
        position: int | None = None,
        variance: tuple[float, float] | None = None,
    ) -> None:
        """Judge `got` by `judge`, in units of the error of `witness`; all [1, rows, width].

        Raises:
            ParityError: the comparison would prove nothing, or the two references are not the same network.
        """
        require_usable(path, self.input, witness, judge)
        torch = measure(witness, judge)
        if not torch.rel_rmse <= self.limits.witness_rel_rmse:
            raise ParityError(
                f"{path} on {self.input}: {self.references.witness.description} is {torch.rel_rmse:.1e} away from "
                f"{self.references.judge.description}, more than rounding; the references are not the same network"
            )
        row = compare(
            path,
            build=build,
            graph=graph,
            input=self.input,
            got=got,
            reference=judge,
            limits=self.limits.limits(torch.max_abs, torch.rel_rmse, one_position=got.shape[1] == 1),
            source_path=self.references.witness.source_path(path),
            position=position,
            torch=torch,
            variance=variance,
        )
        self.rows.append(row)
        if self.keep is not None:
            self.keep(row, judge)


def compare_layers(
    judgement: Judgement,
    graphs: TappedGraphs,
    spec: GraphSpec,
    window: Window,
    decode: Callable[[np.ndarray], Transcript],
) -> Outcome:
    """Compare every value of encoder, prompt and steps on one window.

    Args:
        judgement: gets the rows.
        graphs: of the artifact.
        spec: of the walked module; its taps are expected, all of them.
        window: the recording.
        decode: from the witness's audio states to the tokens that the decoder is fed.
    """
    references = judgement.references
    handle, got = graphs.encode(window.mel[None])
    keep, witness = _keeper()
    states = references.witness.encode(window.mel[None], encoder_taps(spec), keep)

    def judge_encoder(path: str, value: np.ndarray, variance: tuple[float, float] | None) -> None:
        judgement.add(path, "tapped", "encoder", got.pop(path), witness.pop(path), value, variance=variance)

    exact_states = references.judge.encode(window.mel[None], encoder_taps(spec), judge_encoder)
    _require_all_compared(got)

    transcript = decode(states)
    fed, forced = np.array([transcript.fed], np.int64), len(transcript.forced)
    _, got = graphs.prompt(handle, fed, np.arange(forced, dtype=np.int64)[None])
    positions = step_positions(transcript.prompt, spec.dims)
    steps = {position: graphs.step_after(handle, transcript.fed, position) for position in positions}
    stepped = {tap.path for tap in step_taps(spec)}
    keep, witness = _keeper()
    logits = references.witness.logits(fed, states, prompt_taps(spec), keep)

    def judge_decoder(path: str, value: np.ndarray, variance: tuple[float, float] | None) -> None:
        torch, values = witness.pop(path), got.pop(path)
        rows = slice(forced) if path == LOGITS else slice(None)
        judgement.add(path, "tapped", "prompt", values, torch[:, rows], value[:, rows], variance=variance)
        if path not in stepped:
            return
        for position, outputs in steps.items():
            row = slice(position, position + 1)
            judgement.add(path, "tapped", "step", outputs.pop(path), torch[:, row], value[:, row], position, variance)

    exact_logits = references.judge.logits(fed, exact_states, prompt_taps(spec), judge_decoder)
    _require_all_compared(got, *steps.values())
    ends = slice(forced)
    return Outcome((exact_states, states), (exact_logits[:, ends], logits[:, ends]), transcript)


def _keeper() -> tuple[Callable, Values]:
    kept: Values = {}

    def keep(path: str, value: np.ndarray, variance: tuple[float, float] | None) -> None:
        kept[path] = value

    return keep, kept


def _require_all_compared(*values: Values) -> None:
    left = [path for each in values for path in each]
    if left:
        raise ParityError(f"{len(left)} values of the graphs were compared with nothing: {', '.join(left[:5])}")
