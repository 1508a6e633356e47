"""Graphs of custom ops alone, compiled once per test run."""

from pathlib import Path

import numpy as np
import pytest
from longhand import EPS, packed
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops

import whisper2max.kernels
from whisper2max.runtime.threads import shared_session
from whisper2max.runtime.weights import registry

KERNELS = Path(whisper2max.kernels.__path__[0])
CPU = DeviceRef.CPU()
STATE, VOCAB, CONTEXT = 64, 70, 12


def kernel(name: str, values: list, result: TensorType, in_place: bool = False, **parameters) -> TensorValue:
    """Call a kernel of whisper2max in the running graph."""
    call = ops.inplace_custom if in_place else ops.custom
    (y,) = call(f"whisper2max.{name}", device=CPU, values=values, out_types=[result], parameters=parameters)
    return y.tensor


@pytest.fixture(scope="session")
def compile_graph():
    """Compile the graph of these inputs whose outputs `build(kernel, *inputs)` gives."""

    def compile_(name, input_types, build):
        with Graph(name, input_types=input_types, custom_extensions=[KERNELS]) as graph:
            values = [
                value.tensor if isinstance(kind, TensorType) else value.buffer
                for value, kind in zip(graph.inputs, input_types, strict=True)
            ]
            graph.output(*build(kernel, *values))
        return shared_session().load(graph)

    return compile_


@pytest.fixture(scope="session")
def rows(compile_graph):
    """The kernels that work row by row in one graph: run(changed inputs) -> (inputs, outputs by kernel)."""
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
            kernel("embedding", [tokens, wide, scales], x.type),
            kernel("embedding", [tokens, narrow, scales], x.type),
            kernel("embedding", [tokens, int8, scales], x.type),
            kernel("add_positions", [x, table, positions], x.type),
            kernel("layer_norm", [x, weight, bias, eps], x.type),
            kernel("pick_rows", [x, picked], TensorType(DType.float32, ["batch", "n", STATE], CPU)),
        )

    graph = compile_graph("rows", list(types.values()), build)

    def run(**changed):
        arrays = {**inputs(), **changed}
        bound = registry({name: arrays[name] for name in types})
        buffers = [each if isinstance(each, Buffer) else Buffer.from_numpy(each) for each in bound.values()]
        names = ("embedding", "embedding_bfloat16", "embedding_int8", "add_positions", "layer_norm", "pick_rows")
        outputs = zip(names, graph.execute(*buffers), strict=True)
        return arrays, {name: output.to_numpy() for name, output in outputs}

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
