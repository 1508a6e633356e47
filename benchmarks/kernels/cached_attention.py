"""Time of whisper2max.cached_attention along the text context: python benchmarks/kernels/cached_attention.py"""

import sys
from pathlib import Path

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, TensorType, ops

import whisper2max.kernels
from whisper2max.runtime.threads import shared_session

sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import conditions, median_seconds  # noqa: E402

CONTEXT, STATE, HEAD_DIM = 448, 512, 64


def build():
    cpu = DeviceRef.CPU()
    row = TensorType(DType.float32, ["batch", "length", STATE], cpu)
    positions = TensorType(DType.int64, ["batch"], cpu)
    cache = BufferType(DType.float32, [1, "batch", CONTEXT, STATE], cpu)
    kernels = Path(whisper2max.kernels.__path__[0])
    types = [row, row, row, positions, cache, cache]
    with Graph("cached_attention", input_types=types, custom_extensions=[kernels]) as graph:
        values = [value.tensor for value in graph.inputs[:4]] + [value.buffer for value in graph.inputs[4:]]
        (result,) = ops.inplace_custom(
            "whisper2max.cached_attention",
            device=cpu,
            values=values,
            out_types=[row],
            parameters={"layer": 0, "head_dim": HEAD_DIM},
        )
        graph.output(result.tensor)
    return shared_session().load(graph)


def main() -> None:
    print(conditions())
    model = build()
    random = np.random.default_rng(0)
    for batch in (1, 5):
        rows = [Buffer.from_numpy(random.standard_normal((batch, 1, STATE), np.float32)) for _ in range(3)]
        caches = [Buffer.from_numpy(np.zeros((1, batch, CONTEXT, STATE), np.float32)) for _ in range(2)]
        for position in (0, 112, 447):
            positions = Buffer.from_numpy(np.full(batch, position, np.int64))
            seconds = median_seconds(lambda run: model.execute(*rows, positions, *caches), runs=200)  # noqa: B023
            print(f"base, {batch} row(s) at position {position}: {seconds * 1e6:.0f} us a layer")


if __name__ == "__main__":
    main()
