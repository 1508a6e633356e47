"""Hugging Face directories: config.json with safetensors or pytorch_model.bin, whole or sharded."""

from pathlib import Path

import safetensors
import torch

from whisper2max.checkpoints.assemble import assemble, stored_dtype
from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.files import files_sha256, read_json, read_json_if_present, refuse_stand_in
from whisper2max.checkpoints.generation import build_generation, check_mel_settings, configure_transformers
from whisper2max.checkpoints.names import transformers_name
from whisper2max.checkpoints.openai import first_line, load_pickle, tensors_only
from whisper2max.checkpoints.tokenizers import resolve_tokenizer
from whisper2max.dims import ModelDimensions
from whisper2max.errors import CheckpointError

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX)
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
GENERATION_CONFIG, PREPROCESSOR_CONFIG = "generation_config.json", "preprocessor_config.json"
PROJECTION = "proj_out.weight"

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
    return path.is_dir() and any((path / name).exists() for name in (CONFIG, ADAPTER_CONFIG, *WEIGHT_FILES))


def open_path(path: Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """Open a directory.

    Raises:
        CheckpointError: files are missing, damaged or disagree, or it is no Whisper.
        TokenizerError: no tokenizer is found, or it belongs to another model.
    """
    refuse_adapter(path)
    config = read_json(path / CONFIG)
    dims = read_dims(config, path / CONFIG)
    check_mel_settings(read_json_if_present(path / PREPROCESSOR_CONFIG) or {}, PREPROCESSOR_CONFIG, dims)
    files = weight_files(path)
    resolved = resolve_tokenizer(dims.n_vocab, tokenizer, beside=path)
    generation = build_generation(
        resolved.tokenizer,
        dims,
        tokenizer_origin=resolved.origin,
        settings=read_json_if_present(path / GENERATION_CONFIG),
        settings_origin=GENERATION_CONFIG,
    )
    tensors = read_tensors(files)
    prefix = "model." if any(name.startswith("model.") for name in tensors) else ""
    module = assemble(
        tensors,
        dims,
        spell=lambda name: prefix + transformers_name(name).removeprefix("model."),
        where=str(path),
        tied=PROJECTION,
    )
    configure_transformers(module, generation)
    source = {
        "format": "huggingface",
        "name": path.resolve().name,
        "revision": None,
        "sha256": files_sha256(files),
        "stored_dtype": stored_dtype(tensors),
    }
    return Checkpoint(module, dims, resolved.json, generation, source)


def refuse_adapter(path: Path) -> None:
    """Refuse a LoRA adapter that comes without the weights it adapts."""
    if (path / ADAPTER_CONFIG).exists() and not any((path / name).exists() for name in WEIGHT_FILES):
        base = read_json(path / ADAPTER_CONFIG).get("base_model_name_or_path") or "its base model"
        raise CheckpointError(
            f"{path} is a LoRA adapter without its base: the weights it changes are in {base}. Merge them "
            "with peft, "
            "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(DIR), and convert "
            "DIR."
        )


def read_dims(config: dict, path: Path) -> ModelDimensions:
    """The dimensions that a config.json states.

    Raises:
        CheckpointError: it describes another kind of model or an altered Whisper, or is incomplete.
    """
    kind = config.get("model_type")
    if kind != "whisper":
        raise CheckpointError(
            f"{path}: model_type is {kind!r}, expected 'whisper'; other models are not converted."
        )
    missing = sorted({key for key in DIMENSION_KEYS.values() if key not in config})
    if missing:
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}; get the configuration again from its source."
        )
    dims = ModelDimensions(**{name: config[key] for name, key in DIMENSION_KEYS.items()})
    standard = {
        "activation_function": "gelu",
        "scale_embedding": False,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_ffn_dim": 4 * dims.n_text_state,
    }
    differing = [
        f"{key} is {config[key]!r}" for key, value in standard.items() if config.get(key, value) != value
    ]
    if differing:
        raise CheckpointError(
            f"{path}: {', '.join(differing)}; Whisper has {standard}, and no other network is converted."
        )
    return dims


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights: safetensors before pickles, one file before shards.

    Raises:
        CheckpointError: there are none, or the index names shards that are missing.
    """
    name = next((name for name in WEIGHT_FILES if (path / name).exists()), None)
    if name is None:
        raise CheckpointError(
            f"{path} has {CONFIG} but no weights: expected {', '.join(WEIGHT_FILES)}. Download them as well."
        )
    if name in (SAFETENSORS, PICKLE):
        refuse_stand_in(path / name)
        return [path / name]
    shards = read_json(path / name).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{path / name} has no weight_map; download the checkpoint again.")
    names = sorted(set(map(str, shards.values())))
    outside = [shard for shard in names if Path(shard).name != shard]
    if outside:
        raise CheckpointError(
            f"{path / name} names {', '.join(outside)}; shards lie in the directory itself."
        )
    missing = [shard for shard in names if not (path / shard).exists()]
    if missing:
        raise CheckpointError(
            f"{path} lacks the shards {', '.join(missing)} that {name} lists; download them as well."
        )
    files = [path / shard for shard in names]
    for file in files:
        refuse_stand_in(file)
    _check_index(files, shards, path / name)
    return files


def read_tensors(files: list[Path]) -> dict[str, torch.Tensor]:
    """Every tensor of the files, mapped where possible rather than read.

    Raises:
        CheckpointError: a file is damaged, or two hold the same tensor.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        part = (
            _read_safetensors(file)
            if file.suffix == ".safetensors"
            else tensors_only(load_pickle(file), file)
        )
        repeated = [name for name in part if name in tensors]
        if repeated:
            raise CheckpointError(
                f"{file} repeats {', '.join(repeated[:5])} of another shard; download it again."
            )
        tensors |= part
    return tensors


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with _open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _tensor_names(path: Path) -> list[str]:
    with _open_safetensors(path) as file:
        return list(file.keys())


def _open_safetensors(path: Path) -> safetensors.safe_open:
    try:
        return safetensors.safe_open(path, framework="pt")
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not a safetensors file "
            f"({first_line(error)}); "
            "download it again."
        ) from error


def _check_index(files: list[Path], shards: dict[str, str], index: Path) -> None:
    if files[0].suffix != ".safetensors":
        return
    stored = {}
    for file in files:
        stored |= dict.fromkeys(_tensor_names(file), file.name)
    differing = sorted(name for name in stored.keys() | shards.keys() if stored.get(name) != shards.get(name))
    if differing:
        raise CheckpointError(
            f"{index} and its shards disagree about {', '.join(differing[:5])}"
            f"{' and others' if len(differing) > 5 else ''}: they come from different downloads. Download "
            "all again."
        )
