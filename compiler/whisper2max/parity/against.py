"""Two artifacts of the same dimensions, value by value, without torch: another dtype, or yesterday's build."""

from collections.abc import Iterator, Sequence

import numpy as np

from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.case import (
    Transcript,
    describe,
    greedy_limit,
    prompt_of,
    step_positions,
    transcript_of,
    window_of,
)
from whisper2max.parity.report import Findings, Input, Row, TokenRow, data_order
from whisper2max.parity.rows import compare
from whisper2max.parity.shipped import features_row, forced_logits, greedy_tokens, token_rows
from whisper2max.parity.tapped import TappedGraphs, Values
from whisper2max.parity.taps import LOGITS, encoder_taps, prompt_taps
from whisper2max.parity.tolerances import Tolerances
from whisper2max.runtime.engine import Engine
from whisper2max.runtime.tokens import Tokenizer

Run = tuple[str, str, int | None, Values]


def compare_artifacts(
    engines: tuple[Engine, Engine],
    tapped: tuple[TappedGraphs, TappedGraphs],
    spec: GraphSpec,
    tokenizer: Tokenizer,
    inputs: Sequence[tuple[str, np.ndarray]],
    tolerances: Tolerances,
) -> Findings:
    """Compare the first of each pair with the second, on the first 30 s of every input.

    Args:
        engines: the graphs that ship.
        tapped: the same networks with their values as outputs.
        spec: of both.
        tokenizer: of both.
        inputs: names and float32 samples at 16 kHz.
        tolerances: of the coarser dtype.
    """
    limits = {"max_abs": tolerances.against_max_abs, "rel_rmse": tolerances.against_rel_rmse}
    prompt, limit, eot = prompt_of(tokenizer), greedy_limit(tokenizer, spec.dims), tokenizer.special.eot
    rows: list[Row] = []
    tokens: list[TokenRow] = []
    described: list[Input] = []
    for name, samples in inputs:
        window = window_of(name, samples, engines[1])
        mel = engines[0].log_mel(window.samples)
        rows.append(features_row(name, mel, window.mel, tolerances))
        handles = [engine.encode(window.mel[None]) for engine in engines]
        transcript = transcript_of(prompt, greedy_tokens(engines[1], handles[1], prompt, limit, eot), spec.dims)
        forced = [forced_logits(engine, handle, transcript) for engine, handle in zip(engines, handles, strict=True)]
        ours, theirs = (
            [*_tapped_runs(graphs, window.mel, transcript, spec), *_shipped_runs(engine.to_numpy(handle), logits)]
            for graphs, engine, handle, logits in zip(tapped, engines, handles, forced, strict=True)
        )
        for (build, graph, position, got), (*_, reference) in zip(ours, theirs, strict=True):
            where = {"build": build, "graph": graph, "position": position, "input": name}
            for path, value in got.items():
                rows.append(compare(path, **where, got=value, reference=reference[path], limits=limits))
        tokens += token_rows(engines[0], handles[0], name, transcript, forced[0], eot)
        described.append(describe(window, transcript, tokenizer))
    paths = [tap.path for tap in (*encoder_taps(spec), *prompt_taps(spec))]
    return data_order(rows, paths), tuple(tokens), tuple(described)


def _tapped_runs(graphs: TappedGraphs, mel: np.ndarray, transcript: Transcript, spec: GraphSpec) -> Iterator[Run]:
    states, values = graphs.encode(mel[None])
    yield "tapped", "encoder", None, values
    picked = np.arange(len(transcript.forced), dtype=np.int64)[None]
    yield "tapped", "prompt", None, graphs.prompt(states, np.array([transcript.fed], np.int64), picked)[1]
    for position in step_positions(transcript.prompt, spec.dims):
        yield "tapped", "step", position, graphs.step_after(states, transcript.fed, position)


def _shipped_runs(states: np.ndarray, forced: tuple[np.ndarray, np.ndarray]) -> Iterator[Run]:
    yield "shipped", "encoder", None, {"encoder.ln_post": states}
    for graph, logits in zip(("prompt", "step"), forced, strict=True):
        yield "shipped", graph, None, {LOGITS: logits}
