"""How far values are from PyTorch's in float32, and where lists of tokens part."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whisper2max.runtime.protocol import Rows

PROMPT_LENGTH, STEPS = 9, 4


def compared(ours, networks: Mapping[str, Any], mel: np.ndarray) -> dict[str, Any]:
    """Relative errors of each graph on the same inputs.

    Args:
        ours: an `ours.Ours`.
        networks: `plain.Plain` by dtype, "float32" is the reference.
        mel: float32 [windows, n_mels, 3000].

    Returns:
        Graph -> who -> |value - reference| / |reference|; and under "choices" how many of the tokens that `choose`
        gave are those that numpy chooses of the same logits.
    """
    import torch

    from whisper2max.runtime.choice import choose_each

    reference, n_rows = networks["float32"], len(mel)
    inputs = {dtype: torch.from_numpy(mel).to(each.where, each.dtype) for dtype, each in networks.items()}
    states = {dtype: each.encode(inputs[dtype]) for dtype, each in networks.items()}
    found = {"encoder": errors({"whisper2max": ours.engine.to_numpy(ours.engine.encode(mel)), **states})}

    # from here on everybody hears the reference's audio states
    heard = {dtype: each.hear(states["float32"].to(each.dtype)) for dtype, each in networks.items()}
    caches = {dtype: each.caches(n_rows) for dtype, each in networks.items()}
    session = ours.engine.session(n_rows, n_rows)
    session.project(ours.engine.to_states(states["float32"].cpu().numpy()), list(range(n_rows)))

    def theirs(tokens: np.ndarray, positions: np.ndarray, picked: np.ndarray) -> dict[str, torch.Tensor]:
        asked = [torch.from_numpy(each).to(reference.where) for each in (tokens, positions, picked)]
        return {
            dtype: each.decode(*asked[:2], caches[dtype], heard[dtype], asked[2]) for dtype, each in networks.items()
        }

    random = np.random.default_rng(n_rows)
    tokens = random.integers(0, ours.dims.n_vocab - 1600, (n_rows, PROMPT_LENGTH))
    tokens[:, :4] = ours.prompt()
    audios, n_text_ctx = list(range(n_rows)), ours.dims.n_text_ctx
    picked = np.tile(np.array([0, PROMPT_LENGTH - 1]), (n_rows, 1))
    logits = session.extend(tokens, Rows.apart([0] * n_rows, audios, n_text_ctx), picked)
    positions = np.tile(np.arange(PROMPT_LENGTH), (n_rows, 1))
    found["extend"] = errors({"whisper2max": logits, **theirs(tokens, positions, picked)})

    at = 4 + np.arange(n_rows) % (PROMPT_LENGTH - 3)  # rows are at positions of their own
    right = 0
    for number in range(STEPS):
        last = random.integers(0, ours.dims.n_vocab - 1600, n_rows)
        given = session.step(last, Rows.apart(at + number, audios, n_text_ctx))
        logits = ours.logits(given)
        allowed = [ours.allowed] * n_rows
        chosen, by_numpy = session.choose(given, allowed), choose_each(logits.copy(), allowed)
        right += sum(a.token == b.token for a, b in zip(chosen, by_numpy, strict=True))
        expected = theirs(last[:, None], (at + number)[:, None], np.zeros((n_rows, 1), np.int64))
        found[f"step {number}"] = errors({"whisper2max": logits[:, None], **expected})
    return {**found, "choices": {"right": right, "of": STEPS * n_rows}}


def errors(values: dict[str, Any]) -> dict[str, float]:
    """Relative errors of arrays or tensors against that of "float32"."""
    arrays = {who: np.asarray(each.float().cpu() if hasattr(each, "cpu") else each) for who, each in values.items()}
    reference = arrays.pop("float32").astype(np.float64)
    scale = np.linalg.norm(reference)
    return {who: float(np.linalg.norm(each.astype(np.float64) - reference) / scale) for who, each in arrays.items()}


def difference(got: Sequence[int], expected: Sequence[int]) -> dict[str, Any]:
    """Whether tokens are the expected ones: {"equal", "of", "first", "got", "expected"}.

    "first" is the place of the first that is another, or None, and the other two show those from there on.
    """
    pairs = list(zip(got, expected, strict=False))
    first = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
    if first is None and len(got) != len(expected):
        first = len(pairs)
    if first is None:
        return {"equal": True, "of": len(expected), "first": None}
    there = slice(first, first + 8)
    shown = {"got": list(got[there]), "expected": list(expected[there])}
    return {"equal": False, "of": len(expected), "first": first, **shown}
