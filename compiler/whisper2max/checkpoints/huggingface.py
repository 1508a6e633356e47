"""Hugging Face directories: config.json with safetensors or pytorch_model.bin, whole or sharded."""

import os
from functools import partial
from pathlib import Path

import torch

from whisper2max.checkpoints.assemble import assemble, stored_dtype
from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.completion import complete
from whisper2max.checkpoints.files import (
    files_sha256,
    listed,
    open_file,
    quoted,
    read_json,
    read_json_if_present,
    short,
)
from whisper2max.checkpoints.generation import check_mel_settings
from whisper2max.checkpoints.layouts import (
    ADAPTER_CONFIG,
    CONFIG,
    GENERATION_CONFIG,
    PREPROCESSOR_CONFIG,
    SAFETENSORS_INDEX,
    WEIGHT_FILES,
    weight_names,
)
from whisper2max.checkpoints.openai import find_state
from whisper2max.checkpoints.openai import read_tensors as read_pickled_tensors
from whisper2max.checkpoints.pickles import PickledFile
from whisper2max.checkpoints.safetensors_file import read_header, read_safetensors
from whisper2max.checkpoints.spelling import find_spelling, refuse_other_models, stated_dims
from whisper2max.checkpoints.stored import fault_of_size
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import CheckpointError
from whisper2max.core.held import HeldFile

MLX_FILES = ("weights.safetensors", "weights.npz")

DIMENSION_KEYS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}


def matches(path: Path) -> bool:
    """Whether the path is a directory in Hugging Face's layout, complete or not."""
    return path.is_dir() and any(os.path.lexists(path / name) for name in (CONFIG, ADAPTER_CONFIG, *WEIGHT_FILES))


def open_path(path: Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """Open a directory.

    Raises:
        CheckpointError: files are missing, damaged or disagree, or it is no Whisper.
        TokenizerError: no tokenizer is found, or it belongs to another model.
    """
    refuse_relatives(path)
    config = read_json(path / CONFIG)
    dims = read_dims(config, path / CONFIG)
    notes: list[str] = []
    check_mel_settings(read_json_if_present(path / PREPROCESSOR_CONFIG) or {}, PREPROCESSOR_CONFIG, dims, notes)
    files = open_weights(path)
    sha256 = files_sha256(files)
    tensors = read_tensors(files)
    if os.path.lexists(path / ADAPTER_CONFIG):
        notes.append(f"{path} holds a LoRA adapter beside whole weights, which are taken without it")
    refuse_other_models(tensors, str(path), config)
    spelling = find_spelling(tensors, str(path))
    notes += [spelling.note] if spelling.note else []
    settings = [(GENERATION_CONFIG, read_json_if_present(path / GENERATION_CONFIG)), (CONFIG, config)]
    settings = [(name, content) for name, content in settings if content is not None]
    module = partial(assemble, tensors, dims, spell=spelling.name, where=str(path), tied=spelling.projection)
    name = path.resolve().name
    source = {"format": "huggingface", "name": name, "sha256": sha256, "stored_dtype": stored_dtype(tensors)}
    return complete(module, dims, source, tokenizer, beside=path, settings=settings, notes=notes, held=files)


def refuse_relatives(path: Path) -> None:
    """Refuse directories that look like one of a Whisper and are a LoRA adapter, or made for MLX."""
    if any(os.path.lexists(path / name) for name in WEIGHT_FILES):
        return
    if os.path.lexists(path / ADAPTER_CONFIG):
        base = short(read_json(path / ADAPTER_CONFIG).get("base_model_name_or_path") or "its base model")
        raise CheckpointError(
            f"{path} is a LoRA adapter without its base: the weights it changes are in {base}. Merge them "
            "with peft, "
            "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(DIR), and convert "
            "DIR."
        )
    found = next((name for name in MLX_FILES if os.path.lexists(path / name)), None)
    if found is not None:
        raise CheckpointError(
            f"{path} is a model for MLX ({found}), which arranges and names weights in its own way. Give the model "
            "that it was made from: mlx-community/whisper-base-mlx, for one, is openai/whisper-base."
        )


def read_dims(config: dict, path: Path) -> ModelDimensions:
    """The dimensions that a config.json states.

    Raises:
        CheckpointError: it describes another kind of model or an altered Whisper, or is incomplete.
    """
    kind = config.get("model_type")
    if kind != "whisper":
        raise CheckpointError(
            f"{path}: model_type is {quoted(kind)}, expected 'whisper'; other models are not converted."
        )
    missing = sorted({key for key in DIMENSION_KEYS.values() if key not in config})
    if missing:
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}; get the configuration again from its source."
        )
    dims = stated_dims(path, {name: config[key] for name, key in DIMENSION_KEYS.items()})
    standard = {
        "activation_function": "gelu",
        "scale_embedding": False,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_ffn_dim": 4 * dims.n_text_state,
    }
    differing = [
        f"{key} is {quoted(config[key])}" for key, value in standard.items() if config.get(key, value) != value
    ]
    if differing:
        raise CheckpointError(
            f"{path}: {', '.join(differing)}; Whisper has {standard}, and no other network is converted."
        )
    return dims


def open_weights(path: Path) -> list[HeldFile]:
    """The opened files that hold the weights; what their index says of each tensor was compared with them.

    Raises:
        CheckpointError: as `weight_names`, or a file is damaged, or the index belongs to others.
    """
    names, weight_map = weight_names(path)
    files = [open_file(path / name) for name in names]
    if weight_map is not None and names[0].endswith(".safetensors"):
        stored = {name: file.path.name for file in files for name in read_header(file)}
        every = stored.keys() | weight_map.keys()
        differing = sorted(name for name in every if stored.get(name) != weight_map.get(name))
        if differing:
            raise CheckpointError(
                f"{path / SAFETENSORS_INDEX} and its shards disagree about {listed(differing)}: they come from "
                "different downloads. Download all again."
            )
    return files


def read_tensors(files: list[HeldFile]) -> dict[str, torch.Tensor]:
    """Every tensor of the files, mapped rather than read.

    Raises:
        CheckpointError: a file is damaged, or two hold the same tensor.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        if file.path.suffix == ".safetensors":
            part = read_safetensors(file)
        else:
            pickled = PickledFile(file)
            part = read_pickled_tensors(pickled, find_state(pickled.content, file.path), file.path)
        if repeated := [name for name in part if name in tensors]:
            raise CheckpointError(f"{file.path} repeats {listed(repeated)} of another shard; download it again.")
        tensors |= part
    if fault := fault_of_size(tensors.values(), sum(file.size for file in files)):
        raise CheckpointError(f"{files[0].path.parent} cannot be used: {fault}. Download it again.")
    return tensors
