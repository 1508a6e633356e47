"""The gate: the graphs as they ship, judged end to end against the torch module they came from.

For every input: log-mel against transformers' numpy extractor, audio states, teacher-forced logits
through the prompt graph and through the step graph, and greedy tokens, free-running.
"""

from collections.abc import Sequence

import numpy as np

from whisper2max.parity.reference import Reference, reference_log_mel
from whisper2max.parity.report import ParityReport, Row, TokenRow, compare
from whisper2max.parity.tolerances import TOLERANCES, Tolerances
from whisper2max.runtime.engine import Engine
from whisper2max.runtime.features import HOP_LENGTH, log_mel
from whisper2max.runtime.tokens import Tokenizer

TOKEN_LIMIT = 64


def judge(
    engine: Engine,
    reference: Reference,
    tokenizer: Tokenizer,
    inputs: Sequence[tuple[str, np.ndarray]],
    dtype: str,
    source_paths: dict[str, str],
) -> ParityReport:
    """Compare on the first 30 s of every input.

    Args:
        engine: the compiled graphs.
        reference: the module they came from.
        tokenizer: gives the start sequence and end of text.
        inputs: names and float32 samples at 16 kHz.
        dtype: of the artifact; chooses the tolerances.
        source_paths: module path in the reference's tree by canonical path.
    """
    rows: list[Row] = []
    tokens: list[TokenRow] = []
    for name, samples in inputs:
        judge_one(engine, reference, tokenizer, name, samples, TOLERANCES[dtype], source_paths, rows, tokens)
    return ParityReport(dtype, reference.description, tuple(name for name, _ in inputs), tuple(rows), tuple(tokens))


def judge_one(
    engine: Engine,
    reference: Reference,
    tokenizer: Tokenizer,
    name: str,
    samples: np.ndarray,
    limits: Tolerances,
    source_paths: dict[str, str],
    rows: list[Row],
    tokens: list[TokenRow],
) -> None:
    """Append the rows of one input."""
    window = np.zeros(engine.dims.n_frames * HOP_LENGTH, np.float32)
    window[: len(samples)] = samples[: len(window)]
    mel = log_mel(window, engine.dims.n_mels)
    expected_mel = reference_log_mel(window, engine.dims.n_mels)
    rows.append(compare("log_mel", None, name, mel, expected_mel, limits.log_mel_max_abs, None, absolute=True))

    handle = engine.encode(mel[None])
    states, expected_states = engine.to_numpy(handle), reference.encode(mel[None])
    encoder_limits = (limits.encoder_max_abs, limits.encoder_rel_rmse)
    path = "encoder.ln_post"
    rows.append(compare(path, source_paths[path], name, states, expected_states, *encoder_limits))

    language = "en" if tokenizer.special.multilingual else None
    prompt = [*tokenizer.sot_sequence(language, "transcribe"), tokenizer.special.no_timestamps]
    limit = min(TOKEN_LIMIT, engine.dims.n_text_ctx - len(prompt))
    greedy = reference.greedy(prompt, expected_states, limit, tokenizer.special.eot)
    fed = np.array([prompt + greedy[:-1]], np.int64)
    first = len(prompt) - 1
    expected = reference.logits(fed, expected_states)[0]

    forced, session = engine.prompt(handle, fed, np.arange(fed.shape[1], dtype=np.int64)[None])
    logits_limits = (limits.logits_max_abs, limits.logits_rel_rmse)
    rows.append(
        compare("prompt.logits", source_paths["decoder.token_embedding"], name, forced[0], expected, *logits_limits)
    )
    tokens.append(_token_row(name, "prompt", forced[0, first:].argmax(-1).tolist(), greedy))

    stepped, session = engine.prompt(handle, fed[:, : first + 1], np.array([[first]], np.int64))
    stepped = [stepped[0, 0]]
    for position in range(first + 1, fed.shape[1]):
        stepped.append(session.step(fed[:, position], np.array([position], np.int64))[0])
    stepped = np.stack(stepped)
    rows.append(
        compare("step.logits", source_paths["decoder.token_embedding"], name, stepped, expected[first:], *logits_limits)
    )
    tokens.append(_token_row(name, "step", stepped.argmax(-1).tolist(), greedy))
    tokens.append(_token_row(name, "free", _greedy(engine, handle, prompt, limit, tokenizer.special.eot), greedy))


def _greedy(engine: Engine, states: object, prompt: list[int], limit: int, eot: int) -> list[int]:
    logits, session = engine.prompt(states, np.array([prompt], np.int64), np.array([[len(prompt) - 1]], np.int64))
    tokens = [int(logits[0, 0].argmax())]
    while len(tokens) < limit and tokens[-1] != eot:
        position = np.array([len(prompt) + len(tokens) - 1], np.int64)
        tokens.append(int(session.step(np.array(tokens[-1:], np.int64), position)[0].argmax()))
    return tokens


def _token_row(name: str, kind: str, got: list[int], expected: list[int]) -> TokenRow:
    pairs = list(zip(got, expected, strict=False))
    equal = sum(left == right for left, right in pairs)
    different = next((index for index, (left, right) in enumerate(pairs) if left != right), None)
    if different is None and len(got) != len(expected):
        different = len(pairs)
    return TokenRow(name, kind, len(expected), equal, different)
