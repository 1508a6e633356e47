"""Random weights at full dimensions: for structure, parity, memory and speed without a download."""

import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from whisper2max.checkpoints.assemble import assemble
from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.completion import complete
from whisper2max.checkpoints.names import tensor_shapes
from whisper2max.checkpoints.sizes import find_size
from whisper2max.core.dims import ModelDimensions

EMBEDDING_STD = 0.05
POSITION_STD = 0.02
BIAS_STD = 0.02
GAMMA_STD = 0.1
# With unit-scale queries and keys a softmax over 1500 positions is nearly flat; trained attention is not.
ATTENTION_GAIN = 1.5


def random_checkpoint(
    size_or_dims: str | ModelDimensions, seed: int, tokenizer: str | Path | None = None
) -> Checkpoint:
    """A checkpoint of random weights, the same for the same seed on every machine.

    Weights are scaled so that activations stay of order one through any number of blocks and that
    logits spread: projections by the square root of their inputs, those that end a residual branch
    also by the square root of twice the number of blocks.

    Args:
        size_or_dims: a name in `SIZES`, or dimensions whose vocabulary a tokenizer is known for.
        seed: any integer.
        tokenizer: as for `open_checkpoint`.

    Raises:
        UsageError: there is no size of that name.
        TokenizerError: no tokenizer is found for the vocabulary.
    """
    if isinstance(size_or_dims, str):
        dims, name = find_size(size_or_dims).dims, f"random-init of {size_or_dims}, seed {seed}"
    else:
        dims, name = size_or_dims, f"random-init, seed {seed}"
    source = {"format": "random", "name": name, "stored_dtype": "float32"}
    return complete(lambda: assemble(random_tensors(dims, seed), dims, str, name), dims, source, tokenizer)


def random_tensors(dims: ModelDimensions, seed: int) -> dict[str, torch.Tensor]:
    """Random float32 tensors by canonical name; each depends on the seed, its name and its shape alone."""
    shapes = tensor_shapes(dims)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        filled = pool.map(lambda name: _random_tensor(name, shapes[name], dims, seed), shapes)
        return dict(zip(shapes, filled, strict=True))


def sinusoids(length: int, channels: int) -> torch.Tensor:
    """Whisper's encoder positions, float32 [length, channels]: sines, then cosines."""
    increment = math.log(10000) / (channels // 2 - 1)
    angles = np.arange(length)[:, None] * np.exp(-increment * np.arange(channels // 2))[None]
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32))


def _random_tensor(name: str, shape: tuple[int, ...], dims: ModelDimensions, seed: int) -> torch.Tensor:
    if name == "encoder.positional_embedding":
        return sinusoids(*shape)
    mean, std = _moments(name, shape, dims)
    key = hashlib.sha256(f"{seed} {name} {shape}".encode()).digest()
    values = np.empty(shape, np.float32)
    np.random.Generator(np.random.SFC64(int.from_bytes(key))).random(out=values, dtype=np.float32)
    values *= np.float32(math.sqrt(12) * std)
    values += np.float32(mean - math.sqrt(3) * std)
    return torch.from_numpy(values)


def _moments(name: str, shape: tuple[int, ...], dims: ModelDimensions) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's values."""
    if name == "decoder.token_embedding.weight":
        return 0.0, EMBEDDING_STD
    if name == "decoder.positional_embedding":
        return 0.0, POSITION_STD
    if "ln" in name:
        return (1.0, GAMMA_STD) if name.endswith("weight") else (0.0, BIAS_STD)
    if name.endswith("bias"):
        return 0.0, BIAS_STD
    std = 1 / math.sqrt(math.prod(shape[1:]))
    if name.endswith(("query.weight", "key.weight")):
        return 0.0, ATTENTION_GAIN * std
    if name.endswith(("out.weight", "mlp.2.weight")):
        depth = dims.n_audio_layer if name.startswith("encoder") else dims.n_text_layer
        return 0.0, std / math.sqrt(2 * depth)
    return 0.0, std
