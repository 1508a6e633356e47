"""Speed of whisper2max.linear over the shapes of tiny to large: python benchmarks/kernels/linear.py

1500 rows are the encoder's frames: operations per second with fresh rows and the whole epilogue. Few rows are decoding:
bytes of weights per second, every run reading other weights than the one before.
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

from measure import conditions, median_seconds, read_bandwidth  # noqa: E402

CPU = DeviceRef.CPU()
WORDS = {"float32": 1, "bfloat16": 2, "int8": 4}
STATES = {"tiny": 384, "base": 512, "small": 768, "medium": 1024, "large": 1280}
N_VOCAB = 51865
EVICTING_BYTES = 1 << 28


def build(dtype: str, n_in: int, n_out: int):
    """The graph of one Linear of any number of rows."""
    words = WORDS[dtype]
    x = TensorType(DType.float32, [1, "rows", n_in], CPU)
    y = TensorType(DType.float32, [1, "rows", n_out], CPU)
    vector, sums = TensorType(DType.float32, [n_out], CPU), TensorType(DType.int32, [n_out], CPU)
    weight = TensorType(getattr(DType, dtype), [-(-n_out // 32), n_in // words, 32, words], CPU)
    types = [x, weight, vector, sums, vector]
    kernels = Path(whisper2max.kernels.__path__[0])
    with Graph("linear", input_types=types, custom_extensions=[kernels]) as graph:
        values = [value.tensor for value in graph.inputs]
        name = "whisper2max.linear"
        (result,) = ops.custom(name, device=CPU, values=values, out_types=[y], parameters={"activation": "none"})
        graph.output(result.tensor)
    return shared_session().load(graph)


def arguments(dtype: str, rows: int, n_in: int, n_out: int, seed: int) -> list[Buffer]:
    """Random inputs of the graph."""
    random = np.random.default_rng(seed)
    words = WORDS[dtype]
    shape = (-(-n_out // 32), n_in // words, 32, words)
    x = Buffer.from_numpy(random.standard_normal((1, rows, n_in), np.float32))
    vector = Buffer.from_numpy(random.standard_normal(n_out, np.float32))
    sums = Buffer.from_numpy(np.zeros(n_out, np.int32))
    if dtype == "float32":
        return [x, Buffer.from_numpy(random.standard_normal(shape, np.float32)), vector, sums, vector]
    if dtype == "bfloat16":
        bits = (random.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return [x, Buffer.from_numpy(bits).view(DType.bfloat16, shape), vector, sums, vector]
    weight = random.integers(-127, 128, shape, np.int8)
    return [x, Buffer.from_numpy(weight), vector, sums, vector]


def seconds_of(model, dtype: str, rows: int, n_in: int, n_out: int) -> float:
    """Median seconds; weights that few rows read come from memory."""
    size = n_in * n_out * 4 // WORDS[dtype]
    copies = max(2, EVICTING_BYTES // size) if rows < 100 else 2
    inputs = [arguments(dtype, rows, n_in, n_out, seed) for seed in range(min(copies, 64))]
    return median_seconds(lambda run: model.execute(*inputs[run % len(inputs)]), runs=20)


def main() -> None:
    print(conditions())
    print(f"this machine reads {read_bandwidth() / 1e9:.1f} GB/s")
    sizes = sys.argv[1:] or ["base"]
    for size in sizes:
        state = STATES[size]
        for dtype, words in WORDS.items():
            for n_in, n_out in ((state, state), (state, 4 * state), (4 * state, state), (state, N_VOCAB)):
                model = build(dtype, n_in, n_out)
                for rows in (1, 5, 16) if n_out == N_VOCAB else (1, 5, 1500):
                    seconds = seconds_of(model, dtype, rows, n_in, n_out)
                    operations = 2 * rows * n_in * n_out / seconds / 1e9
                    bandwidth = n_in * n_out * 4 / words / seconds / 1e9
                    figure = f"{operations:.0f} GOP/s" if rows >= 100 else f"{bandwidth:.1f} GB/s of weights"
                    print(f"{size} {dtype} {rows} x {n_in} x {n_out}: {seconds * 1e6:.0f} us, {figure}")


if __name__ == "__main__":
    main()
