"""openai-whisper's .pt files: a zip archive of `dims` and `model_state_dict`, nothing else."""

import re
import zipfile
from pathlib import Path

import torch

from whisper2max.checkpoints.assemble import assemble, stored_dtype
from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.files import file_sha256, refuse_stand_in
from whisper2max.checkpoints.generation import build_generation, configure_transformers
from whisper2max.checkpoints.tokenizers import resolve_tokenizer
from whisper2max.dims import ModelDimensions
from whisper2max.errors import CheckpointError

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
SENTENCE_END = re.compile(r"(?<=\w)\. ")


def matches(path: Path) -> bool:
    """Whether the path is a file that may hold a pickled checkpoint."""
    return path.is_file() and path.suffix in SUFFIXES


def open_path(path: Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """Open a .pt file.

    It holds neither tokenizer nor generation settings: the tokenizer is given, or the one Whisper was
    trained with for this vocabulary; alignment heads stay unknown.

    Raises:
        CheckpointError: the file is damaged, holds more than tensors, or is no openai-whisper checkpoint.
        TokenizerError: no tokenizer is found, or it belongs to another model.
    """
    content = load_pickle(path)
    if not isinstance(content, dict) or not {"dims", "model_state_dict"} <= content.keys():
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path} is not an openai-whisper checkpoint: expected the keys dims and model_state_dict, found "
            f"{keys}. "
            "A pytorch_model.bin is opened by giving its directory, config.json included."
        )
    dims = read_dims(content["dims"], path)
    resolved = resolve_tokenizer(dims.n_vocab, tokenizer)
    generation = build_generation(resolved.tokenizer, dims, tokenizer_origin=resolved.origin)
    tensors = tensors_only(content["model_state_dict"], path)
    module = assemble(tensors, dims, spell=str, where=str(path))
    configure_transformers(module, generation)
    source = {
        "format": "openai",
        "name": path.name,
        "revision": None,
        "sha256": file_sha256(path),
        "stored_dtype": stored_dtype(tensors),
    }
    return Checkpoint(module, dims, resolved.json, generation, source)


def load_pickle(path: Path) -> object:
    """The content of a file that torch.save wrote. Tensors and plain containers only: no code runs.

    Raises:
        CheckpointError: the file is damaged, or asks for anything else.
    """
    refuse_stand_in(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {_pickle_fault(error)}") from error


def tensors_only(state: object, path: Path) -> dict[str, torch.Tensor]:
    """A state dict, checked to be one.

    Raises:
        CheckpointError: it is no dictionary, or holds something else than tensors.
    """
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path}: the state dict is a {type(state).__name__}, expected names and tensors."
        )
    others = [str(name) for name, tensor in state.items() if not isinstance(tensor, torch.Tensor)]
    if others:
        raise CheckpointError(
            f"{path}: {', '.join(others[:5])} in the state dict are not tensors; this is a training "
            "checkpoint. "
            "Export the model's own state dict."
        )
    return state


def read_dims(values: object, path: Path) -> ModelDimensions:
    """The `dims` of a .pt file.

    Raises:
        CheckpointError: they are not the ten dimensions of a Whisper.
    """
    try:
        return ModelDimensions(**values)
    except TypeError as error:
        raise CheckpointError(
            f"{path}: dims must be the ten dimensions {', '.join(ModelDimensions.__annotations__)}, but is "
            f"{values!r}."
        ) from error


def first_line(error: Exception) -> str:
    """The type of an error and the first sentence of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {SENTENCE_END.split(lines[0])[0] if lines else ''}"[:200]


def _pickle_fault(error: Exception) -> str:
    """What a refusal of torch.load means. Its own advice, to load the file unsafely, is not passed on."""
    text = str(error)
    by_unpickler = "weights_only" in text or "Weights only" in text
    if by_unpickler and "Unsupported operand" not in text:
        asked_for = re.search(r"GLOBAL ([\w.]+)", text)
        return (
            f"it holds Python objects besides tensors{f' ({asked_for[1]})' if asked_for else ''}, and running "
            "what a file brings along is not safe. Save it again as a state dict, or as safetensors."
        )
    reason = "" if by_unpickler else f" ({first_line(error)})"
    return f"it is truncated or not a file that torch.save wrote{reason}; get it again from its source."
