"""What the kernels compute, written out in float64, and the layout that they read weights in."""

import math

import numpy as np
import torch

from whisper2max.graph.passes import panels, quantize

EPS = 1e-5


def attend(query: np.ndarray, keys: np.ndarray, values: np.ndarray, heads: int) -> np.ndarray:
    """query [state], keys and values [rows, state] -> [state]."""
    width = query.size // heads
    output = np.empty(query.size)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = keys[:, own].astype(np.float64) @ query[own] / np.sqrt(width)
        weights = np.exp(scores - scores.max())
        output[own] = weights @ values[:, own] / weights.sum()
    return output


def gelu(x: np.ndarray) -> np.ndarray:
    """x times the share of a normal distribution below x."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """The approximation of it."""
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def bfloat16(x: np.ndarray) -> np.ndarray:
    """Values rounded to the nearest bfloat16, as float64."""
    return torch.from_numpy(np.ascontiguousarray(x, np.float32)).bfloat16().double().numpy()


def int8_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows rounded to 127ths of their largest magnitude: whole steps as float64, and the step of each row."""
    x = np.asarray(x, np.float32)
    largest = np.abs(x).max(-1, keepdims=True)
    return np.round(x * (np.float32(127) / largest)).astype(np.float64), (largest / np.float32(127)).astype(np.float64)


def packed(weight: np.ndarray, dtype: str) -> list[np.ndarray]:
    """[outputs, inputs] as the kernels read it; bfloat16 as its bits; int8 with scales and sums."""
    tensor = torch.from_numpy(weight)
    if dtype == "float32":
        return [panels(tensor, "w").numpy()]
    if dtype == "bfloat16":
        return [panels(tensor.bfloat16(), "w").view(torch.uint16).numpy()]
    steps, scales = quantize(tensor)
    return [panels(steps, "w").numpy(), scales.numpy(), steps.sum(1, dtype=torch.int32).numpy()]
