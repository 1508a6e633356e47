"""Writers of every checkpoint format, by code that shares nothing with the readers."""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from whisper2max.checkpoints import tokenizers
from whisper2max.core.dims import ModelDimensions
from whisper2max.runtime.tokens import Tokenizer

CTRANSLATE2_TYPES = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4, torch.bfloat16: 5}


@contextmanager
def tokenizers_parsed_once() -> Iterator[None]:
    """Parsing a vocabulary takes ten times as long as the rest of opening a toy checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokenizer, "from_json", staticmethod(lru_cache(maxsize=16)(Tokenizer.from_json)))
        patch.setattr(tokenizers, "from_openai_assets", lru_cache(tokenizers.from_openai_assets))
        yield


def huggingface_config(dims: ModelDimensions) -> dict:
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "activation_function": "gelu",
        "d_model": dims.n_audio_state,
        "encoder_layers": dims.n_audio_layer,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_layers": dims.n_text_layer,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
        "num_mel_bins": dims.n_mels,
        "vocab_size": dims.n_vocab,
        "scale_embedding": False,
    }


def openai_state(module: torch.nn.Module, dims: ModelDimensions) -> dict[str, torch.Tensor]:
    """The module's tensors under the names of openai-whisper's own module, found by replacing words."""
    words = [
        ("model.", ""), ("embed_positions.weight", "positional_embedding"),
        ("embed_tokens", "token_embedding"), (".layers.", ".blocks."),
        ("encoder.layer_norm", "encoder.ln_post"), ("decoder.layer_norm", "decoder.ln"),
        ("encoder_attn_layer_norm", "cross_attn_ln"), ("self_attn_layer_norm", "attn_ln"),
        ("final_layer_norm", "mlp_ln"), ("encoder_attn", "cross_attn"), ("self_attn", "attn"),
        ("fc1", "mlp.0"), ("fc2", "mlp.2"),
        ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"),
    ]  # fmt: skip
    state = {}
    for name, tensor in module.state_dict().items():
        if name != "proj_out.weight":
            for theirs, ours in words:
                name = name.replace(theirs, ours)
            state[name] = tensor
    return state


def ctranslate2_variables(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor | bytes]:
    """What CTranslate2's own converter writes: tensors, and scalars as (type, bytes)."""
    state = {name: tensor.to(dtype) for name, tensor in module.model.state_dict().items()}
    variables: dict = {}

    def linear(path: str, *names: str) -> None:
        variables[f"{path}/weight"] = torch.cat([state[f"{name}.weight"] for name in names])
        biases = [
            state[f"{name}.bias"]
            if f"{name}.bias" in state
            else torch.zeros(len(state[f"{name}.weight"]), dtype=dtype)
            for name in names
        ]
        variables[f"{path}/bias"] = torch.cat(biases)

    def norm(path: str, name: str) -> None:
        variables[f"{path}/gamma"], variables[f"{path}/beta"] = state[f"{name}.weight"], state[f"{name}.bias"]

    for conv in ("conv1", "conv2"):
        variables[f"encoder/{conv}/weight"] = state[f"encoder.{conv}.weight"]
        variables[f"encoder/{conv}/bias"] = state[f"encoder.{conv}.bias"]
    for side in ("encoder", "decoder"):
        config = module.config
        heads = getattr(config, f"{side}_attention_heads")
        variables[f"{side}/num_heads"] = (2, struct.pack("<h", heads))
        variables[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for index in range(getattr(config, f"{side}_layers")):
            ours, theirs = f"{side}/layer_{index}", f"{side}.layers.{index}"
            norm(f"{ours}/self_attention/layer_norm", f"{theirs}.self_attn_layer_norm")
            attention = f"{theirs}.self_attn"
            linear(
                f"{ours}/self_attention/linear_0",
                *(f"{attention}.{part}_proj" for part in "qkv"),
            )
            linear(f"{ours}/self_attention/linear_1", f"{attention}.out_proj")
            if side == "decoder":
                norm(f"{ours}/attention/layer_norm", f"{theirs}.encoder_attn_layer_norm")
                attention = f"{theirs}.encoder_attn"
                linear(f"{ours}/attention/linear_0", f"{attention}.q_proj")
                linear(f"{ours}/attention/linear_1", f"{attention}.k_proj", f"{attention}.v_proj")
                linear(f"{ours}/attention/linear_2", f"{attention}.out_proj")
            norm(f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
            linear(f"{ours}/ffn/linear_0", f"{theirs}.fc1")
            linear(f"{ours}/ffn/linear_1", f"{theirs}.fc2")
    variables["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    flags = {
        "activation": 3,
        "alibi": 0,
        "pre_norm": 1,
        "scale_embeddings": 0,
        "start_from_zero_embedding": 0,
    }
    for name, value in flags.items():
        variables[f"decoder/{name}"] = (1, struct.pack("<b", value))
    variables["decoder/alignment_heads"] = (2, struct.pack("<h", 1))
    variables["decoder/alignment_layer"] = (2, struct.pack("<h", -1))
    return variables


def ctranslate2_bytes(
    variables: dict, aliases: dict[str, str] | None = None, kind: str = "WhisperSpec"
) -> bytes:
    """A model.bin, variables sorted by name."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", 6), text(kind), struct.pack("<II", 3, len(variables))]
    for name in sorted(variables):
        value = variables[name]
        if isinstance(value, tuple):
            shape, (type_id, content) = (), value
        else:
            shape, type_id = tuple(value.shape), CTRANSLATE2_TYPES[value.dtype]
            raw = (
                value.contiguous().view(torch.int16) if value.dtype == torch.bfloat16 else value.contiguous()
            )
            content = raw.numpy().tobytes()
        parts += [text(name), struct.pack("<B", len(shape)), np.array(shape, "<u4").tobytes()]
        parts += [struct.pack("<BI", type_id, len(content)), content]
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"} if aliases is None else aliases
    parts.append(struct.pack("<I", len(aliases)))
    parts += [text(name) for pair in aliases.items() for name in pair]
    return b"".join(parts)


class Writers:
    """Writes a checkpoint in the formats that others publish.

    The methods named after a format return the path written; the functions below build the contents.
    """

    openai_state = staticmethod(openai_state)
    ctranslate2_variables = staticmethod(ctranslate2_variables)
    ctranslate2_bytes = staticmethod(ctranslate2_bytes)

    def __init__(self, folder: Path):
        self.folder = folder

    def openai(self, checkpoint, dtype=torch.float16, name="toy.pt", **changes) -> Path:
        state = {
            key: value.to(dtype) for key, value in openai_state(checkpoint.module, checkpoint.dims).items()
        }
        state |= changes.pop("state", {})
        path = self.folder / name
        torch.save({"dims": checkpoint.dims.to_dict(), "model_state_dict": state, **changes}, path)
        return path

    def huggingface(
        self, checkpoint, dtype=torch.float32, pickle=False, shards=1, projection=False, prefix="model.",
        state=None, config=None, files=None, tokenizer=True,
    ) -> Path:  # fmt: skip
        """`state` and `config` replace or (None) remove entries; `files` adds or removes files."""
        path = self.folder / "toy-huggingface"
        path.mkdir()
        tensors = {
            prefix + name.removeprefix("model."): tensor.to(dtype).clone()
            for name, tensor in checkpoint.module.state_dict().items()
            if name != "proj_out.weight"
        }
        if projection:
            tensors["proj_out.weight"] = tensors[f"{prefix}decoder.embed_tokens.weight"].clone()
        tensors = _changed(tensors, state)
        self._write_weights(path, tensors, pickle, shards)
        contents = {
            "config.json": _changed(huggingface_config(checkpoint.dims), config),
            "preprocessor_config.json": {"feature_size": checkpoint.dims.n_mels, "sampling_rate": 16000},
            "tokenizer.json": checkpoint.tokenizer_json.decode() if tokenizer else None,
        }
        for name, content in _changed(contents, files).items():
            if content is not None:
                (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def _write_weights(self, path: Path, tensors: dict, pickle: bool, shards: int) -> None:
        def save(part: dict, name: str) -> None:
            if pickle:
                torch.save(part, path / name)
            else:
                safetensors.torch.save_file(part, path / name, metadata={"format": "pt"})

        stem, suffix = ("pytorch_model", ".bin") if pickle else ("model", ".safetensors")
        if shards == 1:
            save(tensors, stem + suffix)
            return
        names = list(tensors)
        weight_map = {}
        for index in range(shards):
            name = f"{stem}-{index + 1:05}-of-{shards:05}{suffix}"
            part = {key: tensors[key] for key in names[index::shards]}
            save(part, name)
            weight_map |= dict.fromkeys(part, name)
        index_file = path / f"{stem}{suffix}.index.json"
        index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    def ctranslate2(
        self, checkpoint, dtype=torch.float16, variables=None, aliases=None, config=None, tokenizer=True
    ) -> Path:
        path = self.folder / "toy-ctranslate2"
        path.mkdir()
        content = _changed(ctranslate2_variables(checkpoint.module, dtype), variables)
        (path / "model.bin").write_bytes(ctranslate2_bytes(content, aliases))
        if config is not None:
            (path / "config.json").write_text(json.dumps(config))
        if tokenizer:
            (path / "tokenizer.json").write_bytes(checkpoint.tokenizer_json)
        return path


def _changed(entries: dict, changes: dict | None) -> dict:
    merged = entries | (changes or {})
    return {name: value for name, value in merged.items() if value is not None}
