"""Speed of the kernels that work row by row, at the encoder's 1500 frames: python benchmarks/kernels/rows.py [size ..]

layer_norm, add_positions, embedding and pick_rows move memory and compute little, so the figure is bytes read and
written per second.
"""

import sys
from pathlib import Path

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, Graph, TensorType, ops

import whisper2max.kernels
from whisper2max.runtime.threads import shared_session

sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import conditions, median_seconds  # noqa: E402

CPU = DeviceRef.CPU()
ROWS, N_VOCAB = 1500, 51872
STATES = {"tiny": 384, "base": 512, "small": 768, "medium": 1024, "large": 1280}


def build(name: str, types: list[TensorType], state: int):
    """The graph of one kernel with a result [1, ROWS, state]."""
    result = TensorType(DType.float32, [1, ROWS, state], CPU)
    with Graph(name, input_types=types, custom_extensions=[Path(whisper2max.kernels.__path__[0])]) as graph:
        values = [value.tensor for value in graph.inputs]
        (y,) = ops.custom(f"whisper2max.{name}", device=CPU, values=values, out_types=[result])
        graph.output(y.tensor)
    return shared_session().load(graph)


def cases(state: int) -> dict[str, tuple[list[np.ndarray], int]]:
    """Inputs of every kernel, and how many rows it reads or writes for one of the result."""
    random = np.random.default_rng(0)
    x = random.standard_normal((1, ROWS, state), np.float32)
    vector, places = np.ones(state, np.float32), random.integers(0, ROWS, (1, ROWS))
    table = random.standard_normal((N_VOCAB // 32, state, 32, 1), np.float32)
    return {
        "layer_norm": ([x, vector, vector, np.full(1, 1e-5, np.float32)], 2),
        "add_positions": ([x, x[0], np.zeros(1, np.int64)], 3),
        "embedding": ([random.integers(0, N_VOCAB, (1, ROWS)), table, vector[:1]], 2),
        "pick_rows": ([x, places], 2),
    }


def main() -> None:
    print(conditions())
    dtypes = {np.dtype(np.float32): DType.float32, np.dtype(np.int64): DType.int64}
    for size in sys.argv[1:] or ["base"]:
        for name, (arrays, moved) in cases(STATES[size]).items():
            types = [TensorType(dtypes[each.dtype], list(each.shape), CPU) for each in arrays]
            model = build(name, types, STATES[size])
            inputs = [Buffer.from_numpy(each) for each in arrays]
            seconds = median_seconds(lambda run: model.execute(*inputs), runs=50)  # noqa: B023
            rate = moved * ROWS * STATES[size] * 4 / seconds / 1e9
            print(f"{size} {name}: {seconds * 1e6:.0f} us, {rate:.1f} GB/s")


if __name__ == "__main__":
    main()
