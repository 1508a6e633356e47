"""Graphs of custom ops alone."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from audio_pool import AudioPool
from longhand import EPS, packed
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, KernelLibrary, TensorType, ops

import whisper2max.kernels
from whisper2max.build.cache import GraphCache
from whisper2max.build.compiler import Source
from whisper2max.build.reached import kernels_of
from whisper2max.build.target import resolve
from whisper2max.runtime.graphs import load_graph
from whisper2max.runtime.threads import shared_session
from whisper2max.runtime.weights import registry

KERNELS = Path(whisper2max.kernels.__path__[0])
CPU = DeviceRef.CPU()
STATE, VOCAB, CONTEXT = 64, 70, 12


def kernel(name: str, values: list, *results: TensorType, in_place: bool = False, **parameters):
    """Call a kernel of whisper2max in the running graph; its result, or a list where it has another number of them."""
    call = ops.inplace_custom if in_place else ops.custom
    outputs = call(f"whisper2max.{name}", device=CPU, values=values, out_types=results, parameters=parameters)
    return outputs[0].tensor if len(results) == 1 else [each.tensor for each in outputs]


def drawn(name: str, input_types: list, build: Callable, **kernels) -> Graph:
    """The graph of these inputs whose outputs `build(kernel, *inputs)` gives."""
    with Graph(name, input_types=input_types, **kernels) as graph:
        values = [
            value.tensor if isinstance(kind, TensorType) else value.buffer
            for value, kind in zip(graph.inputs, input_types, strict=True)
        ]
        graph.output(*build(kernel, *values))
    return graph


@pytest.fixture(scope="session")
def compile_graph(tmp_path_factory):
    """Compile the graph of these inputs whose outputs `build(kernel, *inputs)` gives; the user's cache keeps it.

    Its key is that of a source whose text is the graph as MAX prints it, with the kernels that the graph calls; these
    alone are there when it is compiled.
    """
    library = KernelLibrary()
    library.load_paths([KERNELS])
    files = {path.name: path.read_bytes() for path in KERNELS.glob("*.mojo")}
    cache, target = GraphCache(), resolve("native")

    def compile_(name, input_types, build):
        text = str(drawn(name, input_types, build, kernel_library=library))
        text = re.sub(r"_kernel_library_paths = \[.*?\]", "", text)
        source = Source(text.encode(), kernels_of(files, re.findall(r'symbol = "([^"]+)"', text)))
        key = source.key(target)
        with cache.lock(f"{key}-{name}"):
            kept = cache.get(key, name)
            if kept is None:
                folder = tmp_path_factory.mktemp(name)
                source.write(folder)
                graph = drawn(name, input_types, build, custom_extensions=[folder / "kernels"])
                mef = folder / f"{name}.mef"
                shared_session().compile(graph).export_mef(mef)
                kept = cache.put(key, name, mef, {"target": target.name})
        return load_graph(shared_session(), kept, {})

    return compile_


@pytest.fixture(scope="session")
def audio_pool(compile_graph):
    """audio_pool(format, frames, layers, heads, head_dim) -> AudioPool."""

    def made(format_, frames, layers, heads, head_dim):
        word, scales = 4 // format_.size_in_bytes, int(format_ != DType.float32)
        of_keys = [-(-frames // 32), head_dim // word + scales, 32 * word]
        of_values = [-(-head_dim // 32), -(-frames // word) + scales, 32 * word]
        shapes = [["audios", layers, heads, *shape] for shape in (of_keys, of_values)]
        heard = TensorType(DType.float32, ["stored", frames, heads * head_dim], CPU)
        numbers = [TensorType(DType.int64, [1], CPU), TensorType(DType.int64, ["places"], CPU)]
        types = [BufferType(format_, shape, CPU) for shape in shapes]

        def build(kernel, pool_keys, pool_values, keys, values, layer, places):
            kernel("store_keys", [pool_keys, keys, layer, places], in_place=True, head_dim=head_dim)
            kernel("store_values", [pool_values, values, layer, places], in_place=True, head_dim=head_dim)
            return []

        store = compile_graph(f"store_{format_.name}_{head_dim}", [*types, heard, heard, *numbers], build)
        return AudioPool(tuple(TensorType(format_, shape, CPU) for shape in shapes), store)

    return made


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
