"""The kernels that work row by row: embedding, add_positions, layer_norm and pick_rows."""

import numpy as np
import pytest
from longhand import bfloat16, int8_rows, packed
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, TensorType

from whisper2max.runtime.weights import registry

STATE, VOCAB, CONTEXT = 64, 70, 12
CPU = DeviceRef.CPU()
EPS = 1e-5


@pytest.fixture(scope="module")
def rows(compile_graph):
    x = TensorType(DType.float32, ["batch", "length", STATE], CPU)
    types = {
        "tokens": TensorType(DType.int64, ["batch", "length"], CPU),
        "float32": TensorType(DType.float32, [3, STATE, 32, 1], CPU),
        "bfloat16": TensorType(DType.bfloat16, [3, STATE // 2, 32, 2], CPU),
        "int8": TensorType(DType.int8, [3, STATE // 4, 32, 4], CPU),
        "scales": TensorType(DType.float32, [VOCAB], CPU),
        "x": x,
        "table": TensorType(DType.float32, [CONTEXT, STATE], CPU),
        "positions": TensorType(DType.int64, ["starts"], CPU),
        "weight": TensorType(DType.float32, [STATE], CPU),
        "bias": TensorType(DType.float32, [STATE], CPU),
        "eps": TensorType(DType.float32, [1], CPU),
        "picked": TensorType(DType.int64, ["batch", "n"], CPU),
    }

    def build(kernel, tokens, wide, narrow, int8, scales, x, table, positions, weight, bias, eps, picked):
        return (
            kernel("embedding", [tokens, wide], x.type),
            kernel("embedding", [tokens, narrow], x.type),
            kernel("embedding_int8", [tokens, int8, scales], x.type),
            kernel("add_positions", [x, table, positions], x.type),
            kernel("layer_norm", [x, weight, bias, eps], x.type),
            kernel("pick_rows", [x, picked], TensorType(DType.float32, ["batch", "n", STATE], CPU)),
        )

    graph = compile_graph("rows", list(types.values()), build)

    def run(**changed):
        arrays = {**inputs(), **changed}
        bound = registry({name: arrays[name] for name in types})
        buffers = [each if isinstance(each, Buffer) else Buffer.from_numpy(each) for each in bound.values()]
        return arrays, [each.to_numpy() for each in graph.execute(*buffers)]

    return run


def inputs():
    random = np.random.default_rng(0)
    vectors = random.standard_normal((VOCAB, STATE), np.float32)
    int8, scales, _ = packed(vectors, "int8")
    return {
        "vectors": vectors,
        "tokens": np.array([[0, 31, 32], [VOCAB - 1, 5, 64]]),
        "float32": packed(vectors, "float32")[0],
        "bfloat16": packed(vectors, "bfloat16")[0],
        "int8": int8,
        "scales": scales,
        "x": random.standard_normal((2, 3, STATE), np.float32) + 50,
        "table": random.standard_normal((CONTEXT, STATE), np.float32),
        "positions": np.array([9, 4]),
        "weight": random.standard_normal(STATE, np.float32),
        "bias": random.standard_normal(STATE, np.float32),
        "eps": np.array([EPS], np.float32),
        "picked": np.array([[2], [0]]),
    }


def test_embedding_reads_rows_out_of_panels(rows):
    given, (wide, narrow, int8, *_) = rows()
    np.testing.assert_array_equal(wide, given["vectors"][given["tokens"]])
    np.testing.assert_array_equal(narrow, bfloat16(given["vectors"])[given["tokens"]])
    steps, scales = int8_rows(given["vectors"])
    np.testing.assert_allclose(int8, (steps * scales)[given["tokens"]], rtol=1e-6)


def test_positions_begin_where_each_row_does(rows):
    given, (*_, added, _, _) = rows()
    for row, start in enumerate(given["positions"]):
        np.testing.assert_array_equal(added[row], given["x"][row] + given["table"][start : start + 3])
    given, (*_, added, _, _) = rows(positions=np.array([2]))
    np.testing.assert_array_equal(added, given["x"] + given["table"][2:5])


def test_layer_norm_of_channels_far_from_zero(rows):
    given, (*_, normal, _) = rows()
    x = given["x"].astype(np.float64)
    exact = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS)
    np.testing.assert_allclose(normal, exact * given["weight"] + given["bias"], rtol=0, atol=2e-5)


def test_layer_norm_of_a_constant_row_is_the_bias(rows):
    given, (*_, normal, _) = rows(x=np.full((2, 3, STATE), 7, np.float32))
    np.testing.assert_array_equal(normal, np.broadcast_to(given["bias"], normal.shape))


def test_picked_rows(rows):
    given, (*_, picked) = rows()
    np.testing.assert_array_equal(picked[:, 0], [given["x"][0, 2], given["x"][1, 0]])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": np.full((2, 3), 96)}, "a token lies outside of the table"),
        ({"tokens": np.full((2, 3), -1)}, "a token lies outside of the table"),
        ({"positions": np.array([0, 10])}, "a position lies outside of the table"),
        ({"positions": np.array([0, 0, 0])}, "disagree"),
        ({"picked": np.array([[3], [0]])}, "a picked row lies outside of the sequence"),
    ],
)
def test_what_lies_outside_is_refused(rows, changed, message):
    with pytest.raises(Exception, match=message):
        rows(**changed)
