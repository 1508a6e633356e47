"""Speed of whisper2max.conv1d at the two convolutions of a stem: python benchmarks/kernels/conv1d.py [size ..]

Every run hears another input; GELU is part of it, as in the encoder.
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
FRAMES, N_MELS, KERNEL, INPUTS = 3000, 80, 3, 4
STATES = {"tiny": 384, "base": 512, "small": 768, "medium": 1024, "large": 1280}


def build(dtype: DType, n_in: int, n_out: int, stride: int, channels_first: bool):
    """The graph of one convolution."""
    word = 4 // dtype.size_in_bytes
    x = TensorType(DType.float32, [1, n_in, FRAMES] if channels_first else [1, FRAMES, n_in], CPU)
    y = TensorType(DType.float32, [1, FRAMES // stride, n_out], CPU)
    weight = TensorType(dtype, [n_out // 32, KERNEL * n_in // word, 32, word], CPU)
    types = [x, weight, TensorType(DType.float32, [n_out], CPU)]
    parameters = {"kernel": KERNEL, "stride": stride, "padding": 1, "channels_first": channels_first}
    parameters["activation"] = "gelu"
    with Graph("conv1d", input_types=types, custom_extensions=[Path(whisper2max.kernels.__path__[0])]) as graph:
        values = [value.tensor for value in graph.inputs]
        (result,) = ops.custom("whisper2max.conv1d", device=CPU, values=values, out_types=[y], parameters=parameters)
        graph.output(result.tensor)
    return shared_session().load(graph), types


def main() -> None:
    print(conditions())
    random = np.random.default_rng(0)
    for size in sys.argv[1:] or ["base"]:
        state = STATES[size]
        for dtype in (DType.float32, DType.bfloat16):
            for name, n_in, stride in (("conv1", N_MELS, 1), ("conv2", state, 2)):
                model, (x, weight, bias) = build(dtype, n_in, state, stride, channels_first=name == "conv1")
                shape = [int(each) for each in weight.shape]
                values = random.standard_normal(shape, np.float32)
                packed = Buffer.from_numpy(values)
                if dtype == DType.bfloat16:
                    packed = Buffer.from_numpy((values.view(np.uint32) >> 16).astype(np.uint16)).view(dtype, shape)
                offset = Buffer.from_numpy(np.zeros([int(each) for each in bias.shape], np.float32))
                heard = [
                    Buffer.from_numpy(random.standard_normal([int(each) for each in x.shape], np.float32))
                    for _ in range(INPUTS)
                ]
                seconds = median_seconds(lambda run: model.execute(heard[run % INPUTS], packed, offset), runs=20)  # noqa: B023
                operations = 2 * KERNEL * n_in * state * FRAMES // stride
                print(f"{size} {dtype.name} {name}: {seconds * 1e3:.2f} ms, {operations / seconds / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
