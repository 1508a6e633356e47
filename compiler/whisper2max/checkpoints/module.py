"""A live torch module, passed from Python."""

import copy
from pathlib import Path

import torch

from whisper2max.checkpoints.assemble import refuse_non_finite, stored_dtype
from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.completion import complete
from whisper2max.checkpoints.huggingface import DIMENSION_KEYS
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import CheckpointError

TRANSFORMERS = "transformers.models.whisper.modeling_whisper.WhisperForConditionalGeneration"
OPENAI = "whisper.model.Whisper"


def from_module(module: torch.nn.Module, tokenizer: str | Path | None = None) -> Checkpoint:
    """A checkpoint of a live module, which is left as it is.

    Float32 weights on the CPU are shared, others are copied to float32; the structure is always a copy.

    Args:
        module: transformers' WhisperForConditionalGeneration or openai-whisper's Whisper.
        tokenizer: as for `open_checkpoint`; a module carries none.

    Raises:
        CheckpointError: it is another kind of module, or holds NaN or infinity.
        TokenizerError: no tokenizer is found, or it belongs to another model.
    """
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if kind not in (TRANSFORMERS, OPENAI):
        raise CheckpointError(
            f"a {kind} is not converted; pass a transformers WhisperForConditionalGeneration or an "
            "openai-whisper Whisper. A peft model is merged first: model.merge_and_unload()."
        )
    tensors = _tensors(module)
    unloaded = [name for name, tensor in tensors.items() if tensor.is_meta]
    if unloaded:
        raise CheckpointError(
            f"{unloaded[0]} and {len(unloaded) - 1} more tensors are on the meta device; load weights."
        )
    refuse_non_finite(dict(module.named_parameters()), kind)
    dims = _transformers_dims(module) if kind == TRANSFORMERS else ModelDimensions(**vars(module.dims))
    if kind == TRANSFORMERS:
        settings = ("generation_config of the module", _transformers_settings(module))
    else:
        settings = ("alignment_heads of the module", _openai_settings(module))
    source = {"format": "module", "name": kind, "stored_dtype": stored_dtype(dict(module.named_parameters()))}
    return complete(lambda: _own_copy(module), dims, source, tokenizer, settings=[settings])


def _own_copy(module: torch.nn.Module) -> torch.nn.Module:
    """A copy that the walker and the reference may run as they need it."""
    copied = float32_copy(module)
    if hasattr(copied, "set_attn_implementation"):
        copied.set_attn_implementation("eager")
    return copied


def float32_copy(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of the module tree in eval mode, which shares the tensors that are float32 on the CPU."""
    shared = {id(tensor): _float32(tensor) for tensor in _tensors(module).values()}
    return copy.deepcopy(module, memo=shared).requires_grad_(False).eval()


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return parameters | dict(module.named_buffers(remove_duplicate=False))


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself is never returned: a copied tree must not share `requires_grad` with the caller's."""
    values = tensor.detach().to("cpu")
    if values.is_floating_point():
        values = values.to(torch.float32)
    return (
        torch.nn.Parameter(values, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else values
    )


def _transformers_dims(module: torch.nn.Module) -> ModelDimensions:
    return ModelDimensions(**{name: getattr(module.config, key) for name, key in DIMENSION_KEYS.items()})


def _transformers_settings(module: torch.nn.Module) -> dict:
    settings = module.generation_config.to_dict() if module.generation_config is not None else {}
    if "no_timestamps_token_id" not in settings:
        # A module built from a bare config has generation settings that nobody wrote for it.
        return {}
    return settings


def _openai_settings(module: torch.nn.Module) -> dict:
    heads = module.alignment_heads.to_dense().nonzero().tolist()
    upper_half = [
        [layer, head]
        for layer in range(module.dims.n_text_layer // 2, module.dims.n_text_layer)
        for head in range(module.dims.n_text_head)
    ]
    # openai-whisper marks all heads of the upper layers until a model's own heads are set.
    return {} if heads == upper_half else {"alignment_heads": heads}
