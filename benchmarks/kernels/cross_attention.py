"""How fast whisper2max.cross_attention reads keys and values: python benchmarks/kernels/cross_attention.py

Each run reads other keys and values than the one before, so that they come from memory as in decoding.
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

FRAMES, HEAD_DIM, LAYERS = 1500, 64, 12


def build(state: int):
    cpu = DeviceRef.CPU()
    query = TensorType(DType.float32, ["batch", "length", state], cpu)
    cross = TensorType(DType.float32, ["batch", FRAMES, state], cpu)
    kernels = Path(whisper2max.kernels.__path__[0])
    with Graph("cross_attention", input_types=[query, cross, cross], custom_extensions=[kernels]) as graph:
        values = [value.tensor for value in graph.inputs]
        (result,) = ops.custom(
            "whisper2max.cross_attention",
            device=cpu,
            values=values,
            out_types=[query],
            parameters={"head_dim": HEAD_DIM},
        )
        graph.output(result.tensor)
    return shared_session().load(graph)


def main() -> None:
    print(conditions())
    random = np.random.default_rng(0)
    for size, state in {"base": 512, "large": 1280}.items():
        model = build(state)
        query = Buffer.from_numpy(random.standard_normal((1, 1, state), np.float32))
        layers = [
            [Buffer.from_numpy(random.standard_normal((1, FRAMES, state), np.float32)) for _ in range(2)]
            for _ in range(LAYERS)
        ]
        seconds = median_seconds(lambda run: model.execute(query, *layers[run % LAYERS]), runs=60)  # noqa: B023
        gigabytes = 2 * FRAMES * state * 4 / 1e9
        print(f"{size}: one token, one layer: {seconds * 1e6:.0f} us, {gigabytes / seconds:.1f} GB/s")


if __name__ == "__main__":
    main()
