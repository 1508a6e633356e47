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
    row = TensorType(DType.float32, ["rows", "length", STATE], cpu)
    layer, positions = TensorType(DType.int64, [1], cpu), TensorType(DType.int64, ["rows"], cpu)
    slots = TensorType(DType.int32, ["rows", CONTEXT], cpu)
    cache = BufferType(DType.float32, ["slots", 1, CONTEXT, STATE], cpu)
    kernels = Path(whisper2max.kernels.__path__[0])
    types = [row, row, row, layer, positions, slots, cache, cache]
    with Graph("cached_attention", input_types=types, custom_extensions=[kernels]) as graph:
        values = [value.tensor for value in graph.inputs[:6]] + [value.buffer for value in graph.inputs[6:]]
        (result,) = ops.inplace_custom(
            "whisper2max.cached_attention",
            device=cpu,
            values=values,
            out_types=[row],
            parameters={"head_dim": HEAD_DIM},
        )
        graph.output(result.tensor)
    return shared_session().load(graph)


def main() -> None:
    print(conditions())
    model = build()
    random = np.random.default_rng(0)
    layer = Buffer.from_numpy(np.zeros(1, np.int64))
    for rows in (1, 5):
        new = [Buffer.from_numpy(random.standard_normal((rows, 1, STATE), np.float32)) for _ in range(3)]
        caches = [Buffer.from_numpy(np.zeros((rows, 1, CONTEXT, STATE), np.float32)) for _ in range(2)]
        own = np.repeat(np.arange(rows, dtype=np.int32)[:, None], CONTEXT, axis=1)
        tables = {"its own slot": own, "slots of all rows": random.integers(0, rows, own.shape, np.int32)}
        for position in (0, 112, 447):
            for words, slots in tables.items():
                slots[:, position] = np.arange(rows)
                where = [layer, *map(Buffer.from_numpy, (np.full(rows, position, np.int64), slots)), *caches]
                seconds = median_seconds(lambda run: model.execute(*new, *where), runs=200)  # noqa: B023
                print(f"base, {rows} row(s) at position {position} in {words}: {seconds * 1e6:.0f} us a layer")


if __name__ == "__main__":
    main()
