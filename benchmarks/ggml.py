"""The file that whisper.cpp reads: python benchmarks/ggml.py CHECKPOINT.pt OUTPUT.bin

Little-endian: magic; ten dimensions and the kind of matrices as i32; the mel filters with their shape; the
vocabulary as length and bytes; then tensors, each with rank, length of the name, kind, sizes from the fastest
axis on, name and values. It is the layout of whisper.cpp's models/convert-pt-to-ggml.py.
"""

import base64
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAGIC = 0x67676D6C
FLOAT32, FLOAT16 = 0, 1
DIMENSIONS = (
    "n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer",
    "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer", "n_mels",
)  # fmt: skip
COLUMNS = ("encoder.conv1.bias", "encoder.conv2.bias")
ALWAYS_FLOAT32 = (*COLUMNS, "encoder.positional_embedding", "decoder.positional_embedding")


def write_ggml(output: Path, checkpoint: Path) -> None:
    """Write the ggml file of a multilingual openai-whisper .pt, matrices in float16."""
    import torch

    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    dims = content["dims"]
    tensors = {name: tensor.float().numpy() for name, tensor in content["model_state_dict"].items()}
    with output.open("wb") as file:
        write_header(file, dims, mel_filters(dims["n_mels"]), vocabulary())
        for name, values in tensors.items():
            write_tensor(file, name, values)


def write_header(file: BinaryIO, dims: Mapping[str, int], filters: np.ndarray, tokens: Sequence[bytes]) -> None:
    """Everything before the tensors.

    Args:
        file: open for writing.
        dims: openai-whisper's ModelDimensions.
        filters: float32 [n_mels, n_fft / 2 + 1].
        tokens: bytes of the tokens by id, without the special ones, which whisper.cpp adds.
    """
    file.write(struct.pack("<12i", MAGIC, *(dims[name] for name in DIMENSIONS), FLOAT16))
    file.write(struct.pack("<2i", *filters.shape))
    file.write(filters.astype("<f4").tobytes())
    file.write(struct.pack("<i", len(tokens)))
    for token in tokens:
        file.write(struct.pack("<i", len(token)) + token)


def write_tensor(file: BinaryIO, name: str, values: np.ndarray) -> None:
    """One tensor: float16 if it is a matrix or a convolution, float32 otherwise."""
    values = values.squeeze()
    if name in COLUMNS:
        values = values[:, None]
    kind = FLOAT32 if values.ndim < 2 or name in ALWAYS_FLOAT32 else FLOAT16
    encoded = name.encode()
    file.write(struct.pack("<3i", values.ndim, len(encoded), kind))
    file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)))
    file.write(encoded)
    file.write(values.astype("<f2" if kind == FLOAT16 else "<f4").tobytes())


def mel_filters(n_mels: int) -> np.ndarray:
    """openai-whisper's filters, float32 [n_mels, 201]."""
    with np.load(_asset("mel_filters.npz")) as filters:
        return filters[f"mel_{n_mels}"]


def vocabulary() -> list[bytes]:
    """The tokens of openai-whisper's multilingual vocabulary by id."""
    lines = _asset("multilingual.tiktoken").read_bytes().splitlines()
    ranks = {int(rank): base64.b64decode(token) for token, rank in (line.split() for line in lines if line)}
    return [ranks[rank] for rank in range(len(ranks))]


def _asset(name: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec("whisper")
    if spec is None:
        raise SystemExit("the mel filters and the vocabulary are openai-whisper's: pip install openai-whisper")
    return Path(spec.submodule_search_locations[0]) / "assets" / name


if __name__ == "__main__":
    write_ggml(Path(sys.argv[2]), Path(sys.argv[1]))
