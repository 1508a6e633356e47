"""Speed of whisper2max.attention with its packing: python benchmarks/kernels/attention.py [size ..]

1500 queries are the encoder's, one and five are decoding across; every run reads other keys and values.
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
FRAMES, HEAD_DIM, LAYERS = 1500, 64, 12
STATES = {"tiny": 384, "base": 512, "small": 768, "medium": 1024, "large": 1280}


def call(name: str, values: list, result: TensorType, **parameters):
    out = ops.custom(f"whisper2max.{name}", device=CPU, values=values, out_types=[result], parameters=parameters)
    return out[0].tensor


def build(dtype: DType, state: int):
    """Two graphs: keys and values to their packed forms; queries and packed forms to the result."""
    word, heads = 4 // dtype.size_in_bytes, state // HEAD_DIM
    kernels = [Path(whisper2max.kernels.__path__[0])]
    rows = TensorType(DType.float32, [1, FRAMES, state], CPU)
    scales = int(dtype != DType.float32)
    keys = TensorType(dtype, [1, heads, -(-FRAMES // 32), HEAD_DIM // word + scales, 32 * word], CPU)
    values = TensorType(dtype, [1, heads, -(-HEAD_DIM // 32), -(-FRAMES // word) + scales, 32 * word], CPU)
    query = TensorType(DType.float32, [1, "rows", state], CPU)
    with Graph("pack", input_types=[rows, rows], custom_extensions=kernels) as pack:
        k, v = (value.tensor for value in pack.inputs)
        packed = call("pack_keys", [k], keys, head_dim=HEAD_DIM), call("pack_values", [v], values, head_dim=HEAD_DIM)
        pack.output(*packed)
    with Graph("attention", input_types=[query, keys, values], custom_extensions=kernels) as attend:
        inputs = [value.tensor for value in attend.inputs]
        attend.output(call("attention", inputs, query, head_dim=HEAD_DIM, frames=FRAMES))
    return shared_session().load(pack), shared_session().load(attend)


def main() -> None:
    print(conditions())
    for size in sys.argv[1:] or ["base"]:
        state = STATES[size]
        random = np.random.default_rng(0)
        for dtype in (DType.float32, DType.bfloat16, DType.int8):
            pack, attend = build(dtype, state)
            frames = [
                [Buffer.from_numpy(random.standard_normal((1, FRAMES, state), np.float32)) for _ in range(2)]
                for _ in range(LAYERS)
            ]
            packing = median_seconds(lambda run: pack.execute(*frames[run % LAYERS]), runs=30)  # noqa: B023
            print(f"{size} {dtype.name}: packing keys and values {packing * 1e6:.0f} us a layer")
            packed = [pack.execute(*each) for each in frames]
            for rows in (1, 5, FRAMES):
                query = Buffer.from_numpy(random.standard_normal((1, rows, state), np.float32))
                seconds = median_seconds(lambda run: attend.execute(query, *packed[run % LAYERS]), runs=30)  # noqa: B023
                speed = 4 * rows * FRAMES * state / seconds / 1e9
                print(f"{size} {dtype.name} {rows} queries: {seconds * 1e6:.0f} us a layer, {speed:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
