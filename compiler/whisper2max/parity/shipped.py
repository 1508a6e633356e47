"""What the graphs that ship make of a recording: features, logits of given tokens, and tokens of their own."""

import numpy as np
from max.driver import Buffer

from whisper2max.parity.case import Transcript
from whisper2max.parity.report import Row, TokenRow
from whisper2max.parity.rows import compare
from whisper2max.parity.tolerances import Tolerances
from whisper2max.runtime.engine import Engine


def features_row(input: str, got: np.ndarray, reference: np.ndarray, tolerances: Tolerances) -> Row:
    """Log-mel spectrograms [n_mels, frames] of the same samples; judged by the difference itself."""
    return compare(
        "log_mel",
        build="shipped",
        graph="features",
        input=input,
        got=got,
        reference=reference,
        limits={"max_abs": tolerances.log_mel_max_abs, "rel_rmse": None},
        absolute=True,
    )


def forced_logits(engine: Engine, states: Buffer, transcript: Transcript) -> tuple[np.ndarray, np.ndarray]:
    """Teacher-forced logits of one row, float32 [1, length, n_vocab].

    Returns:
        Of every position through the prompt graph; and from the last of the prompt on, token by token through
        the step graph.
    """
    forced = np.array([transcript.forced], np.int64)
    every = np.arange(forced.shape[1], dtype=np.int64)[None]
    prompted, _ = engine.prompt(states, forced, every)
    first = len(transcript.prompt) - 1
    logits, session = engine.prompt(states, forced[:, : first + 1], np.array([[first]], np.int64))
    stepped = [logits[:, 0]]
    for position in range(first + 1, forced.shape[1]):
        stepped.append(session.step(forced[:, position], np.array([position], np.int64)))
    return prompted, np.stack(stepped, axis=1)


def greedy_tokens(engine: Engine, states: Buffer, prompt: list[int], limit: int, eot: int) -> list[int]:
    """Most probable tokens after `prompt`, free-running, at most `limit`, up to and including `eot`."""
    logits, session = engine.prompt(states, np.array([prompt], np.int64), np.array([[len(prompt) - 1]], np.int64))
    tokens = [int(logits[0, 0].argmax())]
    while len(tokens) < limit and tokens[-1] != eot:
        position = np.array([len(prompt) + len(tokens) - 1], np.int64)
        tokens.append(int(session.step(np.array(tokens[-1:], np.int64), position)[0].argmax()))
    return tokens


def token_rows(
    engine: Engine,
    states: Buffer,
    name: str,
    transcript: Transcript,
    forced: tuple[np.ndarray, np.ndarray],
    eot: int,
) -> list[TokenRow]:
    """Teacher-forced tokens of the logits that `forced_logits` gave, and free-running ones, beside the expected."""
    prompted, stepped = forced
    first = len(transcript.prompt) - 1
    free = greedy_tokens(engine, states, transcript.prompt, len(transcript.greedy), eot)
    return [
        _token_row(name, "prompt", prompted[0, first:].argmax(-1).tolist(), transcript.greedy),
        _token_row(name, "step", stepped[0].argmax(-1).tolist(), transcript.greedy),
        _token_row(name, "free", free, transcript.greedy),
    ]


def _token_row(name: str, kind: str, got: list[int], expected: list[int]) -> TokenRow:
    pairs = list(zip(got, expected, strict=False))
    equal = sum(left == right for left, right in pairs)
    different = next((index for index, (left, right) in enumerate(pairs) if left != right), None)
    if different is None and len(got) != len(expected):
        different = len(pairs)
    return TokenRow(name, kind, len(expected), equal, different)
