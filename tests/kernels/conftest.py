"""A graph of a single custom op, compiled once per test file."""

from pathlib import Path

import pytest
from max.graph import DeviceRef, Graph, ops

import whisper2max.kernels
from whisper2max.runtime.threads import shared_session

KERNELS = Path(whisper2max.kernels.__path__[0])


@pytest.fixture(scope="session")
def compile_op():
    def compile_(name, input_types, output_type, parameters, in_place=False):
        call = ops.inplace_custom if in_place else ops.custom
        with Graph(name.replace(".", "_"), input_types=input_types, custom_extensions=[KERNELS]) as graph:
            values = [value if in_place and i >= 4 else value.tensor for i, value in enumerate(graph.inputs)]
            (result,) = call(
                name, device=DeviceRef.CPU(), values=values, out_types=[output_type], parameters=parameters
            )
            graph.output(result.tensor)
        return shared_session().load(graph)

    return compile_
