"""How fast whisper2max.log_mel is beside the numpy path: python benchmarks/kernels/log_mel.py

Each run hears other samples than the one before.
"""

import sys
from pathlib import Path

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, Dim, Graph, TensorType, ops

import whisper2max.kernels
from whisper2max.runtime.features import log_mel, mel_filters
from whisper2max.runtime.threads import shared_session

sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import conditions, median_seconds  # noqa: E402

SAMPLE_RATE, RECORDINGS = 16_000, 8


def build():
    cpu = DeviceRef.CPU()
    samples = TensorType(DType.float32, ["samples"], cpu)
    filters = TensorType(DType.float32, ["n_mels", 201], cpu)
    kernels = Path(whisper2max.kernels.__path__[0])
    with Graph("log_mel", input_types=[samples, filters], custom_extensions=[kernels]) as graph:
        (result,) = ops.custom(
            "whisper2max.log_mel",
            device=cpu,
            values=[value.tensor for value in graph.inputs],
            out_types=[TensorType(DType.float32, ["n_mels", Dim("samples") // 160], cpu)],
        )
        graph.output(result.tensor)
    return shared_session().load(graph)


def main() -> None:
    print(conditions())
    random = np.random.default_rng(0)
    model = build()
    for n_mels, heard in [(80, 30), (128, 30), (80, 600)]:
        filters = mel_filters(n_mels)
        recordings = [random.standard_normal(heard * SAMPLE_RATE, np.float32) for _ in range(RECORDINGS)]
        inputs = [Buffer.from_numpy(each) for each in recordings]
        rest = Buffer.from_numpy(filters.copy())
        runs = 600 // heard
        ours = median_seconds(lambda run: model.execute(inputs[run % RECORDINGS], rest), runs)  # noqa: B023
        theirs = median_seconds(lambda run: log_mel(recordings[run % RECORDINGS], n_mels), runs)  # noqa: B023
        print(
            f"{n_mels} mels, {heard} s: {ours * 1e3:.2f} ms, numpy {theirs * 1e3:.1f} ms, "
            f"{theirs / ours:.1f} times as fast"
        )


if __name__ == "__main__":
    main()
