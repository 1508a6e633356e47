"""Blocks by themselves: each is fed the reference's own inputs, so an error is blamed on the block that makes it.

The float64 run rounds the input of every block to float32, which both float32 sides can then be given exactly.
"""

from collections.abc import Callable

import numpy as np

from whisper2max.core.errors import ParityError
from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.case import Transcript, Window
from whisper2max.parity.layers import Judgement
from whisper2max.parity.reference import Reference, Sink
from whisper2max.parity.tapped import BlockGraphs, Values
from whisper2max.parity.taps import Tap, encoder_taps, prompt_taps

# Runs one half of a network with these taps into this sink.
Run = Callable[[Reference, tuple[Tap, ...], Sink], np.ndarray]


def compare_blocks(
    judgement: Judgement, graphs: BlockGraphs, spec: GraphSpec, window: Window, transcript: Transcript
) -> None:
    """Compare every block of encoder and decoder on one window; rows are added to `judgement`."""
    mel, fed = window.mel[None], np.array([transcript.fed], np.int64)

    def encode(reference: Reference, taps: tuple[Tap, ...], sink: Sink) -> np.ndarray:
        return reference.encode(mel, taps, sink)

    blocks = [f"encoder.blocks.{layer}" for layer in range(spec.dims.n_audio_layer)]
    run_block = graphs.encoder_block
    states = _compare(judgement, "encoder", encode, encoder_taps(spec), blocks, run_block).astype(np.float32)

    def decode(reference: Reference, taps: tuple[Tap, ...], sink: Sink) -> np.ndarray:
        return reference.logits(fed, states, taps, sink)

    def run_block_with_states(layer: int, x: np.ndarray) -> Values:
        return graphs.decoder_block(layer, x, states)

    blocks = [f"decoder.blocks.{layer}" for layer in range(spec.dims.n_text_layer)]
    _compare(judgement, "prompt", decode, prompt_taps(spec), blocks, run_block_with_states)


def _compare(
    judgement: Judgement,
    graph: str,
    run: Run,
    taps: tuple[Tap, ...],
    blocks: list[str],
    run_block: Callable[[int, np.ndarray], Values],
) -> np.ndarray:
    """Compare the blocks of one half; what the judge made of the whole half is returned."""
    taps = tuple(tap for tap in taps if ".blocks." in tap.path)
    entering: Values = {}
    exact: dict[str, tuple[np.ndarray, tuple[float, float] | None]] = {}
    witness: Values = {}

    def remember(path: str, values: np.ndarray) -> np.ndarray:
        entering[path] = values.astype(np.float32)
        return entering[path]

    def recall(path: str, values: np.ndarray) -> np.ndarray:
        return entering[path]

    def keep_exact(path: str, value: np.ndarray, variance: tuple[float, float] | None) -> None:
        exact[path] = value, variance

    def keep_witness(path: str, value: np.ndarray, variance: tuple[float, float] | None) -> None:
        witness[path] = value

    references = judgement.references
    with references.judge.replacing(remember, blocks):
        result = run(references.judge, taps, keep_exact)
    with references.witness.replacing(recall, blocks):
        run(references.witness, taps, keep_witness)
    for layer, block in enumerate(blocks):
        for path, got in run_block(layer, entering[block]).items():
            value, variance = exact.pop(path)
            judgement.add(path, "isolated", graph, got, witness.pop(path), value, variance=variance)
    if exact or not blocks:
        raise ParityError(f"{len(exact)} values of single blocks were compared with nothing: {', '.join(exact)}")
    return result
