"""CTranslate2 directories, as faster-whisper uses them: model.bin, config.json, tokenizer.json."""

import mmap
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from whisper2max.checkpoints.assemble import ANOTHER, assemble, refuse_faults, stored_dtype
from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.completion import complete
from whisper2max.checkpoints.files import listed, open_file, read_json_if_present, short
from whisper2max.checkpoints.generation import check_mel_settings
from whisper2max.checkpoints.layouts import CONFIG, GENERATION_CONFIG, MODEL_BIN, PREPROCESSOR_CONFIG
from whisper2max.checkpoints.model_bin import read_variables
from whisper2max.checkpoints.spelling import stated_dims
from whisper2max.checkpoints.stored import MOST_BYTES
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import CheckpointError
from whisper2max.core.held import HeldFile
from whisper2max.core.printable import printable

SETTINGS = {
    "suppress_tokens": "suppress_ids",
    "begin_suppress_tokens": "suppress_ids_begin",
    "alignment_heads": "alignment_heads",
    "lang_ids": "lang_ids",
}
GELU = 3

# What a Whisper converter writes beside the weights; anything else would change the computation.
STANDARD_SCALARS = {
    "decoder/activation": GELU,
    "encoder/activation": GELU,
    "decoder/pre_norm": 1,
    "encoder/pre_norm": 1,
    "decoder/alibi": 0,
    "decoder/alibi_use_positive_positions": 0,
    "decoder/scale_alibi": 0,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
IGNORED_SCALARS = ("decoder/alignment_heads", "decoder/alignment_layer")
PROJECTION = "decoder/projection/weight"

TOP_LEVEL = {
    "encoder.positional_embedding": "encoder/position_encodings/encodings",
    "decoder.positional_embedding": "decoder/position_encodings/encodings",
    "decoder.token_embedding.weight": "decoder/embeddings/weight",
    "encoder.ln_post": "encoder/layer_norm",
    "decoder.ln": "decoder/layer_norm",
}
# In self-attention linear_0 is query, key and value one above the other; in cross-attention linear_0
# is the query, linear_1 key and value. The name in brackets is the part.
BLOCK = {
    "attn_ln": "self_attention/layer_norm",
    "attn.query": "self_attention/linear_0[query]",
    "attn.key": "self_attention/linear_0[key]",
    "attn.value": "self_attention/linear_0[value]",
    "attn.out": "self_attention/linear_1",
    "cross_attn_ln": "attention/layer_norm",
    "cross_attn.query": "attention/linear_0",
    "cross_attn.key": "attention/linear_1[key]",
    "cross_attn.value": "attention/linear_1[value]",
    "cross_attn.out": "attention/linear_2",
    "mlp_ln": "ffn/layer_norm",
    "mlp.0": "ffn/linear_0",
    "mlp.2": "ffn/linear_1",
}
FUSED = {"self_attention/linear_0": ("query", "key", "value"), "/attention/linear_1": ("key", "value")}


def matches(path: Path) -> bool:
    """Whether the path is a directory with a model.bin."""
    return path.is_dir() and os.path.lexists(path / MODEL_BIN)


def open_path(path: Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """Open a directory.

    Raises:
        CheckpointError: model.bin is damaged, quantised, or no Whisper.
        TokenizerError: no tokenizer is found, or it belongs to another model.
    """
    file = open_file(path / MODEL_BIN)
    if file.size > MOST_BYTES:
        raise CheckpointError(f"{file.path} has {file.size:,} bytes; no Whisper has more than {MOST_BYTES:,}.")
    return open_content(file.map(), path, path.resolve().name, file.sha256, tokenizer, [file])


def open_content(
    content: bytearray | mmap.mmap,
    folder: Path,
    name: str,
    sha256: str,
    tokenizer: str | Path | None = None,
    held: Sequence[HeldFile] = (),
) -> Checkpoint:
    """Open the content of a model.bin, which lies in the files that are held; the other files lie in `folder`."""
    where = f"{printable(name)}, {MODEL_BIN}"
    notes: list[str] = []
    variables = read_variables(content, where)
    refuse_quantised(variables, where)
    scalars = {key: _scalar(array) for key, array in variables.items() if array.ndim == 0}
    tensors = split_fused(_tensors(variables))
    dims = read_dims(tensors, scalars, where)
    refuse_faults(_scalar_faults(scalars), where, ANOTHER)
    _refuse_key_bias(tensors, where)
    check_mel_settings(read_json_if_present(folder / PREPROCESSOR_CONFIG) or {}, PREPROCESSOR_CONFIG, dims, notes)
    settings = _settings(read_json_if_present(folder / CONFIG) or {}, folder)
    claimable = {key: tensor for key, tensor in tensors.items() if not key.endswith("bias[key]")}
    module = partial(assemble, claimable, dims, spell=variable_name, where=where, tied=PROJECTION)
    source = {"format": "ctranslate2", "name": name, "sha256": sha256, "stored_dtype": stored_dtype(claimable)}
    return complete(module, dims, source, tokenizer, beside=folder, settings=settings, notes=notes, held=held)


def variable_name(name: str) -> str:
    """CTranslate2's name of a canonical one: encoder.ln_post.bias -> encoder/layer_norm/beta."""
    owner, _, leaf = name.rpartition(".")
    if name in TOP_LEVEL:
        return TOP_LEVEL[name]
    if owner in TOP_LEVEL:
        return f"{TOP_LEVEL[owner]}/{_layer_norm_leaf(leaf)}"
    if ".blocks." not in name:
        return name.replace(".", "/")
    side, _, index, rest = owner.split(".", 3)
    path = f"{side}/layer_{index}/{BLOCK[rest]}"
    if path.endswith("layer_norm"):
        return f"{path}/{_layer_norm_leaf(leaf)}"
    path, bracket, part = path.partition("[")
    return f"{path}/{leaf}{bracket}{part}"


def refuse_quantised(variables: dict[str, np.ndarray], where: str) -> None:
    """Refuse weights in integers: what quantisation took away cannot be restored."""
    names = [key for key, array in variables.items() if array.ndim > 0 and array.dtype.kind == "i"]
    if names:
        raise CheckpointError(
            f"{where} is quantised: {listed(names, 2)} are {variables[names[0]].dtype}, and what that lost cannot be "
            "restored. Use the model that it was made from, or its float16 or float32 version."
        )


def split_fused(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut the fused projections into their parts, named `.../weight[query]` and so on."""
    parts: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition("/")
        names = next((names for ending, names in FUSED.items() if path.endswith(ending)), None)
        if names is None or len(tensor) % len(names):
            parts[name] = tensor
        else:
            pieces = tensor.chunk(len(names))
            parts |= {f"{name}[{part}]": piece for part, piece in zip(names, pieces, strict=True)}
    return parts


def read_dims(tensors: dict[str, torch.Tensor], scalars: dict[str, int | float], where: str) -> ModelDimensions:
    """The dimensions of the variables.

    Raises:
        CheckpointError: a variable that carries a dimension is missing or of another rank.
    """
    needed = {
        "encoder/conv1/weight": 3,
        "encoder/position_encodings/encodings": 2,
        "decoder/embeddings/weight": 2,
        "decoder/position_encodings/encodings": 2,
    }
    faults = []
    for name, rank in needed.items():
        if name not in tensors:
            faults.append(f"{name}: missing")
        elif tensors[name].ndim != rank:
            faults.append(f"{name}: shape {list(tensors[name].shape)}, expected {rank} sizes")
    faults += [
        f"{side}/num_heads: missing" for side in ("encoder", "decoder") if f"{side}/num_heads" not in scalars
    ]
    refuse_faults(faults, where)
    conv, audio, embeddings, text = (tuple(tensors[name].shape) for name in needed)
    values = {
        "n_mels": conv[1],
        "n_audio_ctx": audio[0],
        "n_audio_state": audio[1],
        "n_audio_head": _heads(scalars, "encoder", where),
        "n_audio_layer": _count_layers(tensors, "encoder"),
        "n_vocab": embeddings[0],
        "n_text_ctx": text[0],
        "n_text_state": embeddings[1],
        "n_text_head": _heads(scalars, "decoder", where),
        "n_text_layer": _count_layers(tensors, "decoder"),
    }
    return stated_dims(where, values)


def _count_layers(tensors: dict[str, torch.Tensor], side: str) -> int:
    return len(
        {name.split("/")[1] for name in tensors if name.startswith(f"{side}/layer_") and name.count("/") > 2}
    )


def _tensors(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The variables that are no scalars; an alias shares the tensor of what it stands for."""
    made: dict[int, torch.Tensor] = {}
    for array in variables.values():
        if array.ndim and id(array) not in made:
            tensor = torch.from_numpy(array if array.flags.aligned else array.copy())
            made[id(array)] = tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor
    return {name: made[id(array)] for name, array in variables.items() if array.ndim}


def _scalar(array: np.ndarray) -> int | float:
    return array.astype(np.float32).item() if array.dtype.kind == "f" else array.item()


def _heads(scalars: dict[str, int | float], side: str, where: str) -> int:
    value = scalars[f"{side}/num_heads"]
    if not isinstance(value, int):
        refuse_faults([f"{side}/num_heads: is {value}, expected a whole number"], where)
    return value


def _settings(config: dict, folder: Path) -> list[tuple[str, dict]]:
    """What the configurations beside a model.bin state, under transformers' names."""
    own = {ours: config.get(theirs) for ours, theirs in SETTINGS.items()}
    others = read_json_if_present(folder / GENERATION_CONFIG)
    return [(f"CTranslate2's {CONFIG}", own), *([] if others is None else [(GENERATION_CONFIG, others)])]


def _scalar_faults(scalars: dict[str, int | float]) -> list[str]:
    return [
        f"{short(name)}: is {value}, expected {STANDARD_SCALARS.get(name, 'no such setting')}"
        for name, value in scalars.items()
        if not name.endswith("/num_heads") and name not in IGNORED_SCALARS
        if STANDARD_SCALARS.get(name) != value
    ]


def _refuse_key_bias(tensors: dict[str, torch.Tensor], where: str) -> None:
    faults = [
        f"{name}: is not zero, and Whisper's key projection has no bias"
        for name, tensor in tensors.items()
        if name.endswith("bias[key]") and tensor.any()
    ]
    refuse_faults(faults, where, ANOTHER)


def _layer_norm_leaf(leaf: str) -> str:
    return {"weight": "gamma", "bias": "beta"}[leaf]
