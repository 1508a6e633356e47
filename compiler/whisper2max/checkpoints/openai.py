"""Files of torch.save: openai-whisper's .pt, and state dicts of Whisper as others save them."""

from functools import partial
from pathlib import Path

import torch

from whisper2max.checkpoints.assemble import assemble, stored_dtype
from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.completion import complete
from whisper2max.checkpoints.files import listed, open_file, short
from whisper2max.checkpoints.pickles import PickledFile, StoredTensor
from whisper2max.checkpoints.spelling import dims_of_shapes, find_spelling, refuse_other_models, stated_dims
from whisper2max.checkpoints.stored import fault_of_size
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import CheckpointError

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# Where a file of torch.save keeps the state dict: openai-whisper, Lightning, training loops.
STATE_KEYS = ("model_state_dict", "state_dict", "model")


def matches(path: Path) -> bool:
    """Whether the path names what may be a pickled checkpoint."""
    return path.suffix in SUFFIXES and not path.is_dir()


def open_path(path: Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """Open a .pt file.

    It holds neither tokenizer nor generation settings: the tokenizer is given, or the one Whisper was
    trained with for this vocabulary; alignment heads stay unknown. Where it states no dimensions, the shapes tell them.

    Raises:
        CheckpointError: the file is damaged, holds more than tensors, or is no Whisper.
        TokenizerError: no tokenizer is found, or it belongs to another model.
    """
    if path.name.startswith("pytorch_model") and (path.parent / "config.json").exists():
        raise CheckpointError(f"{path} belongs to the config.json beside it: give the directory, {path.parent}.")
    file = open_file(path)
    sha256 = file.sha256
    pickled = PickledFile(file)
    state = find_state(pickled.content, path)
    dims = read_dims(pickled.content["dims"], path) if "dims" in pickled.content else None
    tensors = read_tensors(pickled, state, path)
    refuse_other_models(tensors, str(path))
    spelling = find_spelling(tensors, str(path))
    notes = [spelling.note] if spelling.note else []
    if dims is None:
        dims, note = dims_of_shapes(tensors, spelling, str(path))
        notes.append(note)
    module = partial(assemble, tensors, dims, spell=spelling.name, where=str(path), tied=spelling.projection)
    source = {"format": "openai", "name": path.name, "sha256": sha256, "stored_dtype": stored_dtype(tensors)}
    return complete(module, dims, source, tokenizer, notes=notes, held=[file])


def find_state(content: object, path: Path) -> dict[str, StoredTensor]:
    """Find the state dict in the content of a file of torch.save; the content may itself be one.

    Raises:
        CheckpointError: there is none, or it holds something else than tensors.
    """
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} is no checkpoint of a Whisper: expected a dictionary with dims and model_state_dict, as "
            f"openai-whisper saves them, or a state dict; found a {type(content).__name__}."
        )
    state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)), content)
    others = [name for name, value in state.items() if not isinstance(name, str) or type(value) is not StoredTensor]
    if state is content and (not state or len(others) == len(state)):
        raise CheckpointError(
            f"{path} is no checkpoint of a Whisper: expected the keys dims and model_state_dict, as openai-whisper "
            f"saves them, or a state dict; found {listed(content) or 'nothing'}."
        )
    if others:
        raise CheckpointError(
            f"{path}: {listed(others)} in the state dict {'is' if len(others) == 1 else 'are'} not tensors; this is a "
            "training checkpoint. Export the model's own state dict."
        )
    return state


def read_tensors(pickled: PickledFile, state: dict[str, StoredTensor], path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, where they lie in the file.

    Raises:
        CheckpointError: one does not lie in the file, or together they have far more bytes.
    """
    tensors = {name: pickled.tensor(stored) for name, stored in state.items()}
    if fault := fault_of_size(tensors.values(), pickled.size):
        raise CheckpointError(f"{path} cannot be used: {fault}. Get it again from its source.")
    return tensors


def read_dims(values: object, path: Path) -> ModelDimensions:
    """The `dims` of a .pt file.

    Raises:
        CheckpointError: they are not the ten dimensions of a Whisper.
    """
    names = ModelDimensions.__annotations__
    if not isinstance(values, dict) or values.keys() != names.keys():
        stated = f"has {listed(values, 12) or 'none'}" if isinstance(values, dict) else f"is {short(values)}"
        raise CheckpointError(f"{path}: dims must be the ten dimensions {', '.join(names)}, but {stated}.")
    others = [
        f"{name} is {'a tensor' if type(value) is StoredTensor else short(value)}"
        for name, value in values.items()
        if type(value) is not int
    ]
    if others:
        raise CheckpointError(
            f"{path}: every dimension is an integer, and {', '.join(others)}. Save dims as plain numbers."
        )
    return stated_dims(path, values)
