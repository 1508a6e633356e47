"""Graphs of custom ops alone, compiled once per test file."""

from pathlib import Path

import pytest
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops

import whisper2max.kernels
from whisper2max.runtime.threads import shared_session

KERNELS = Path(whisper2max.kernels.__path__[0])
CPU = DeviceRef.CPU()


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
