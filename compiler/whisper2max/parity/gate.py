"""The gate: compiled graphs, layer by layer and as they ship, judged against the torch module they came from.

For every input: the values of the tapped graphs; then, by the graphs that ship, log-mel against transformers'
numpy extractor, audio states, teacher-forced logits through prompt and step, and greedy tokens, free-running.
"""

from collections.abc import Sequence

import numpy as np

from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.case import Transcript, Window, describe, greedy_limit, prompt_of, transcript_of, window_of
from whisper2max.parity.isolated import compare_blocks
from whisper2max.parity.kept import Keeper
from whisper2max.parity.layers import Judgement, Outcome, References, compare_layers
from whisper2max.parity.reference import reference_log_mel
from whisper2max.parity.report import Findings, Input, Row, TokenRow, data_order
from whisper2max.parity.shipped import features_row, forced_logits, token_rows
from whisper2max.parity.tapped import BlockGraphs, TappedGraphs
from whisper2max.parity.taps import LOGITS, encoder_taps, prompt_taps
from whisper2max.parity.tolerances import TOLERANCES
from whisper2max.runtime.engine import Engine
from whisper2max.runtime.tokens import Tokenizer


def judge(
    engine: Engine,
    tapped: TappedGraphs,
    blocks: BlockGraphs | None,
    references: References,
    spec: GraphSpec,
    tokenizer: Tokenizer,
    inputs: Sequence[tuple[str, np.ndarray]],
    keeper: Keeper | None = None,
) -> Findings:
    """Compare on the first 30 s of every input.

    Args:
        engine: the graphs that ship.
        tapped: the same network with its values as outputs.
        blocks: single blocks, to compare them on the references' own inputs too; None to leave that out.
        references: the module they came from, in float32 and float64.
        spec: of the walked module.
        tokenizer: gives the prompt and end of text.
        inputs: names and float32 samples at 16 kHz.
        keeper: collects parts of the references for a later replay; None to keep nothing.

    Returns:
        Rows in data order, token rows, and what the inputs were.
    """
    limits = TOLERANCES[spec.dtype]
    rows: list[Row] = []
    tokens: list[TokenRow] = []
    described: list[Input] = []
    prompt, eot = prompt_of(tokenizer), tokenizer.special.eot
    limit = greedy_limit(tokenizer, spec.dims)

    def decode(states: np.ndarray) -> Transcript:
        return transcript_of(prompt, references.witness.greedy(prompt, states, limit, eot), spec.dims)

    for name, samples in inputs:
        window = window_of(name, samples, engine)
        judgement = Judgement(references, limits, name, rows, keeper and keeper.keep)
        reference = reference_log_mel(window.samples, spec.dims.n_mels)
        rows.append(features_row(name, window.mel, reference, limits))
        outcome = compare_layers(judgement, tapped, spec, window, decode)
        if blocks is not None:
            compare_blocks(judgement, blocks, spec, window, outcome.transcript)
        tokens += _judge_shipped(engine, judgement, outcome, window, eot)
        if keeper is not None:
            keeper.keep_window(window, outcome.transcript)
        described.append(describe(window, outcome.transcript, tokenizer))
    paths = [tap.path for tap in (*encoder_taps(spec), *prompt_taps(spec))]
    return data_order(rows, paths), tuple(tokens), tuple(described)


def _judge_shipped(engine: Engine, judgement: Judgement, outcome: Outcome, window: Window, eot: int) -> list[TokenRow]:
    transcript = outcome.transcript
    exact_states, states = outcome.states
    exact_logits, logits = outcome.logits
    handle = engine.encode(window.mel[None])
    judgement.add("encoder.ln_post", "shipped", "encoder", engine.to_numpy(handle), states, exact_states)
    forced = forced_logits(engine, handle, transcript)
    first = len(transcript.prompt) - 1
    judgement.add(LOGITS, "shipped", "prompt", forced[0], logits, exact_logits)
    judgement.add(LOGITS, "shipped", "step", forced[1], logits[:, first:], exact_logits[:, first:])
    return token_rows(engine, handle, window.name, transcript, forced, eot)
