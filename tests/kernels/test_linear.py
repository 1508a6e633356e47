"""whisper2max.linear and linear_add against longhand products of the same rounded operands."""

import numpy as np
import pytest
import torch
from longhand import bfloat16, gelu, gelu_tanh, int8_rows, packed
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, TensorType

from whisper2max.graph.passes import quantize
from whisper2max.runtime.weights import registry

N_IN, N_OUT = 72, 83
CPU = DeviceRef.CPU()
WORDS = {"float32": 1, "bfloat16": 2, "int8": 4}
ACTIVATIONS = {"none": lambda x: x, "gelu": gelu, "gelu_tanh": gelu_tanh}


@pytest.fixture(scope="module")
def linear(compile_graph):
    """Outputs: of every format plain, with GELU, with its approximation, and with a residual."""
    x = TensorType(DType.float32, ["batch", "length", N_IN], CPU)
    y = TensorType(DType.float32, ["batch", "length", N_OUT], CPU)
    vector = TensorType(DType.float32, [N_OUT], CPU)
    sums = TensorType(DType.int32, [N_OUT], CPU)
    weights = [
        TensorType(getattr(DType, dtype), [-(-N_OUT // 32), N_IN // words, 32, words], CPU)
        for dtype, words in WORDS.items()
    ]

    def build(kernel, x, bias, residual, scales, sums, *weights):
        outputs = []
        for weight in weights:
            values = [x, weight, scales, sums, bias]
            outputs += [kernel("linear", values, residual.type, activation=each) for each in ACTIVATIONS]
            outputs.append(kernel("linear_add", [*values, residual], residual.type))
        return outputs

    return compile_graph("linear", [x, vector, y, vector, sums, *weights], build)


def run(linear, x, weight, bias, residual):
    *_, scales, sums = packed(weight, "int8")
    panels = registry({dtype: packed(weight, dtype)[0] for dtype in WORDS})
    arrays = [x, bias, residual, scales, sums, *panels.values()]
    outputs = linear.execute(*(each if isinstance(each, Buffer) else Buffer.from_numpy(each) for each in arrays))
    values = [each.to_numpy() for each in outputs]
    return {dtype: values[4 * i : 4 * i + 4] for i, dtype in enumerate(WORDS)}


def product(x, weight, dtype):
    if dtype == "float32":
        return x.astype(np.float64) @ weight.T.astype(np.float64)
    if dtype == "bfloat16":
        return bfloat16(x) @ bfloat16(weight).T
    steps, scales = int8_rows(x)
    weight_steps, weight_scales = (each.double().numpy() for each in quantize(torch.from_numpy(weight)))
    return (steps @ weight_steps.T) * (scales * weight_scales)


# one tile of each size, several tiles with a rest, rows shared by panel, and by block of rows
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (1, 7), (5, 2), (1, 13), (2, 48), (1, 97), (1, 203)])
def test_every_number_of_rows(linear, shape):
    random = np.random.default_rng(shape[0] * 1000 + shape[1])
    x = random.standard_normal((*shape, N_IN), np.float32) * np.exp(random.standard_normal((*shape, 1), np.float32))
    weight = random.standard_normal((N_OUT, N_IN), np.float32) / 8
    bias = random.standard_normal(N_OUT, np.float32)
    residual = random.standard_normal((*shape, N_OUT), np.float32)
    for dtype, (*activated, added) in run(linear, x, weight, bias, residual).items():
        expected = product(x, weight, dtype) + bias
        tolerance = 3e-6 * np.abs(expected).max()
        for got, activation in zip(activated, ACTIVATIONS.values(), strict=True):
            np.testing.assert_allclose(got, activation(expected), rtol=0, atol=tolerance, err_msg=dtype)
        np.testing.assert_allclose(added, expected + residual, rtol=0, atol=2 * tolerance, err_msg=dtype)


def test_rows_of_zeros_and_the_extremes_of_int8(linear):
    x = np.zeros((1, 3, N_IN), np.float32)
    x[0, 1], x[0, 2] = 1, -1
    weight = np.where(np.arange(N_OUT)[:, None] % 2, np.float32(1), np.float32(-1)) * np.ones((1, N_IN), np.float32)
    zero = np.zeros(N_OUT, np.float32)
    got = run(linear, x, weight, zero, np.zeros((1, 3, N_OUT), np.float32))
    signs = np.where(np.arange(N_OUT) % 2, 1, -1) * N_IN
    for dtype, (plain, *_) in got.items():
        np.testing.assert_allclose(plain[0], [0 * signs, signs, -signs], rtol=1e-6, err_msg=dtype)


def test_what_is_not_a_number_stays_so_in_every_float(linear):
    x = np.zeros((1, 3, N_IN), np.float32)
    # as quiet as a NaN can be, one that rounding carries over to zero, and the same below zero
    x[0, :, 5] = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    weight, zero = np.ones((N_OUT, N_IN), np.float32), np.zeros(N_OUT, np.float32)
    got = run(linear, x, weight, zero, np.zeros((1, 3, N_OUT), np.float32))
    for dtype in ("float32", "bfloat16"):
        assert np.isnan(got[dtype][0]).all(), dtype


def test_a_weight_of_other_shape_is_refused(compile_graph):
    types = [
        TensorType(DType.float32, ["batch", "length", 8], CPU),
        TensorType(DType.int8, ["panels", "words", 32, 4], CPU),
        TensorType(DType.float32, ["scales"], CPU),
        TensorType(DType.int32, ["scales"], CPU),
        TensorType(DType.float32, [32], CPU),
    ]
    result = TensorType(DType.float32, ["batch", "length", 32], CPU)

    def build(kernel, *values):
        return [kernel("linear", values, result, activation="none")]

    graph = compile_graph("refuse", types, build)

    def run(words, scales):
        shapes = {(1, 1, 8): np.float32, (1, words, 32, 4): np.int8}
        arrays = [np.zeros(shape, dtype) for shape, dtype in shapes.items()]
        arrays += [np.zeros(scales, np.float32), np.zeros(scales, np.int32), np.zeros(32, np.float32)]
        return graph.execute(*map(Buffer.from_numpy, arrays))

    run(2, 32)
    with pytest.raises(Exception, match="packed for another number of inputs"):
        run(3, 32)
    with pytest.raises(Exception, match="needs the scale and the sum"):
        run(2, 1)
