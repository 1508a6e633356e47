"""whisper2max.conv1d against torch's convolution in float64."""

import numpy as np
import pytest
import torch
from longhand import bfloat16, gelu, packed
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, TensorType

from whisper2max.runtime.weights import registry

N_IN, N_OUT, KERNEL, FRAMES = 20, 40, 3, 9
CPU = DeviceRef.CPU()


@pytest.fixture(scope="module")
def convolutions(compile_graph):
    """Outputs: stride 1 from channels first in float32; stride 2 with GELU in bfloat16."""

    def build(kernel, mel, x, wide, narrow, bias):
        first = kernel(
            "conv1d",
            [mel, wide, bias],
            TensorType(DType.float32, ["batch", FRAMES, N_OUT], CPU),
            kernel=KERNEL,
            stride=1,
            padding=1,
            channels_first=True,
            activation="none",
        )
        second = kernel(
            "conv1d",
            [x, narrow, bias],
            TensorType(DType.float32, ["batch", (FRAMES + 1) // 2, N_OUT], CPU),
            kernel=KERNEL,
            stride=2,
            padding=1,
            channels_first=False,
            activation="gelu",
        )
        return first, second

    words = KERNEL * N_IN
    types = [
        TensorType(DType.float32, ["batch", N_IN, FRAMES], CPU),
        TensorType(DType.float32, ["batch", FRAMES, N_IN], CPU),
        TensorType(DType.float32, [2, words, 32, 1], CPU),
        TensorType(DType.bfloat16, [2, words // 2, 32, 2], CPU),
        TensorType(DType.float32, [N_OUT], CPU),
    ]
    return compile_graph("conv1d", types, build)


def longhand(x, filters, bias, stride):
    tensors = (torch.from_numpy(np.asarray(each, np.float64)) for each in (x.transpose(0, 2, 1), filters, bias))
    return torch.nn.functional.conv1d(*tensors, stride=stride, padding=1).transpose(1, 2).numpy()


@pytest.mark.parametrize("batch", [1, 2, 30])
def test_every_frame_sees_its_neighbours_and_zeros_beyond_the_ends(convolutions, batch):
    random = np.random.default_rng(batch)
    x = random.standard_normal((batch, FRAMES, N_IN), np.float32)
    filters = random.standard_normal((N_OUT, N_IN, KERNEL), np.float32)
    bias = random.standard_normal(N_OUT, np.float32)
    matrix = np.ascontiguousarray(filters.transpose(0, 2, 1).reshape(N_OUT, -1))
    weights = registry({dtype: packed(matrix, dtype)[0] for dtype in ("float32", "bfloat16")})
    arrays = [np.ascontiguousarray(x.transpose(0, 2, 1)), x, *weights.values(), bias]
    first, second = convolutions.execute(
        *(each if isinstance(each, Buffer) else Buffer.from_numpy(each) for each in arrays)
    )
    expected = longhand(x, filters, bias, 1)
    np.testing.assert_allclose(first.to_numpy(), expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    expected = gelu(longhand(bfloat16(x), bfloat16(filters), bias, 2))
    np.testing.assert_allclose(second.to_numpy(), expected, rtol=0, atol=3e-6 * np.abs(expected).max())
