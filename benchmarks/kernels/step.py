"""Speed of the whole decode step of an artifact: python benchmarks/kernels/step.py ARTIFACT ..

A step is step_block of every layer, and the logits. It reads the decoder's weights and the audio's keys and values
once, however many rows there are, so it is compared with the rate at which this machine reads memory in the same run.
"""

import sys
from pathlib import Path

import numpy as np

import whisper2max
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.runtime.protocol import Rows
from whisper2max.runtime.weights import map_weights

sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import conditions, median_seconds, read_bandwidth  # noqa: E402

PROMPT = 4
NOT_READ = ("decoder.positional_embedding", "cross_attn.key", "cross_attn.value")


def weight_bytes(artifact: Path) -> int:
    """Of the weights that a step reads."""
    arrays = map_weights(HeldFile(artifact / "weights.safetensors", ArtifactError)).items()
    return sum(
        array.nbytes
        for name, array in arrays
        if name.startswith("decoder.") and not any(part in name for part in NOT_READ)
    )


def measure(artifact: Path) -> None:
    model = whisper2max.load(artifact)
    dims, engine = model.engine.dims, model.engine
    random = np.random.default_rng(0)
    mel = random.standard_normal((dims.n_mels, dims.n_frames), np.float32)
    for rows in (1, 5, 16):
        session = engine.session(rows, 1)
        session.hear(mel, 0)
        heard, first = [0] * rows, np.zeros((rows, 1), np.int64)
        session.extend(np.zeros((rows, PROMPT), np.int64), Rows.apart([0] * rows, heard, dims.n_text_ctx), first)
        audio = sum(each.num_elements * each.dtype.size_in_bytes for each in session.pools[2:])

        def step(run: int, session=session, rows=rows, heard=heard) -> None:
            at = Rows.apart([PROMPT + run] * rows, heard, dims.n_text_ctx)
            session.step(random.integers(0, dims.n_vocab, rows), at)

        seconds = median_seconds(step, runs=100)
        read = weight_bytes(artifact) + audio
        share = read / seconds / read_bandwidth()
        rate = f"{read / 1e6:.0f} MB at {read / seconds / 1e9:.1f} GB/s, {share:.0%} of what the machine reads"
        print(f"{artifact.name}, {rows} rows: {seconds * 1e3:.2f} ms, {rate}")


if __name__ == "__main__":
    print(conditions())
    for path in sys.argv[1:]:
        measure(Path(path))
