"""The one loop over recordings that every comparison is.

A `Standard` says what is right: PyTorch (`proof.py`), what was kept of PyTorch (`kept.py`), or another artifact
(`comparison.py`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.figures import Place, Row, compare
from whisper2max.parity.graphs import ShippedGraphs, TappedGraphs
from whisper2max.parity.inputs import Transcript, Window, describe
from whisper2max.parity.report import Findings, Input, SameBits, TokenRow, data_order
from whisper2max.parity.runs import Run, greedy_tokens, run_decoder, run_encoder, run_token_by_token
from whisper2max.parity.taps import LOG_MEL, LOGITS, data_paths
from whisper2max.parity.tolerances import Tolerances
from whisper2max.runtime.tokens import Tokenizer


class Standard(Protocol):
    """What the graphs of an artifact are compared with, one window after the other."""

    def windows(self) -> Iterable[Window]:
        """The recordings."""

    def features(self, window: Window, got: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The spectrogram float32 [n_mels, frames] that both sides are fed, and the one to judge `got` by."""

    def encoder(self, window: Window, mel: np.ndarray, runs: Sequence[Run]) -> list[Row]:
        """Judge runs of the encoder on a spectrogram."""

    def transcript(self, window: Window) -> Transcript:
        """The tokens that are heard in the window whose encoder was judged last."""

    def decoder(self, window: Window, transcript: Transcript, runs: Sequence[Run]) -> list[Row]:
        """Judge runs of the decoder on a transcript of that window."""


def compare_windows(
    shipped: ShippedGraphs,
    tapped: TappedGraphs | None,
    standard: Standard,
    spec: GraphSpec,
    tokenizer: Tokenizer,
    tolerances: Tolerances,
) -> Findings:
    """Run the graphs on the first 30 s of every recording, and judge what they give.

    Args:
        shipped: the graphs that ship.
        tapped: the same with all their values as outputs; None to leave them out.
        standard: what is right.
        spec: of the network.
        tokenizer: of the model.
        tolerances: of the dtype.
    """
    rows: list[Row] = []
    tokens: list[TokenRow] = []
    same: list[SameBits] = []
    described: list[Input] = []
    both = [shipped, *([tapped] if tapped else [])]
    for window in standard.windows():
        got = shipped.engine.log_mel(window.samples)
        mel, reference = standard.features(window, got)
        rows.append(_features_row(window, got, reference, tolerances))
        encoded = [run_encoder(graphs, mel, window.name) for graphs in both]
        same += _same_bits(*([run] for _, run in encoded))
        rows += standard.encoder(window, mel, [run for _, run in encoded])
        transcript = standard.transcript(window)
        decoded = [
            list(run_decoder(graphs, states, window.name, transcript))
            for graphs, (states, _) in zip(both, encoded, strict=True)
        ]
        same += _same_bits(*decoded)
        states = encoded[0][0]
        stepped = run_token_by_token(shipped, states, window.name, transcript)
        limit, eot = len(transcript.greedy), tokenizer.special.eot
        free = greedy_tokens(shipped, states, transcript.prompt, limit, eot)
        tokens += _token_rows(window.name, transcript, decoded[0], stepped, free)
        rows += standard.decoder(window, transcript, [*(run for runs in decoded for run in runs), stepped])
        described.append(describe(window, transcript, tokenizer))
    return Findings(data_order(rows, data_paths(spec)), tuple(tokens), tuple(same), tuple(described))


def _features_row(window: Window, got: np.ndarray, reference: np.ndarray, tolerances: Tolerances) -> Row:
    limits = {"max_abs": tolerances.log_mel_max_abs, "rel_rmse": None}
    place = Place("shipped", "features", window.name)
    return compare(LOG_MEL, place, got=got, reference=reference, limits=limits, absolute=True)


def _same_bits(shipped: Sequence[Run], tapped: Sequence[Run] = ()) -> Iterator[SameBits]:
    """What the shipped graphs give beside what the tapped ones give in the same runs, if there are any."""
    for ours, theirs in zip(shipped, tapped, strict=bool(tapped)):
        for path, values in ours.values.items():
            different = np.count_nonzero(values.view(np.uint32) != theirs.values[path].view(np.uint32))
            yield SameBits(ours.place.input, ours.place.words, values.size, int(different))


def _token_rows(
    name: str, transcript: Transcript, decoded: Sequence[Run], stepped: Run, free: list[int]
) -> Iterator[TokenRow]:
    """Teacher-forced tokens through extend and step, and free-running ones, beside those that are expected."""
    extended = next(run for run in decoded if LOGITS in run.values).values[LOGITS]
    first, end = len(transcript.prompt) - 1, len(transcript.forced)
    kinds = {
        "extend": extended[0, first:end].argmax(-1).tolist(),
        "step": stepped.values[LOGITS][0].argmax(-1).tolist(),
        "free": free,
    }
    for kind, got in kinds.items():
        pairs = list(zip(got, transcript.greedy, strict=False))
        different = next((index for index, (left, right) in enumerate(pairs) if left != right), None)
        if different is None and len(got) != len(transcript.greedy):
            different = len(pairs)
        equal = sum(left == right for left, right in pairs)
        yield TokenRow(name, kind, len(transcript.greedy), equal, different)
