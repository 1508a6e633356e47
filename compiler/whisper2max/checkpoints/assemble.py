"""Tensors of any source -> transformers' WhisperForConditionalGeneration, strictly.

transformers fills a missing tensor with random numbers and warns; here every tensor is claimed by
name exactly once, and everything that is wrong is listed in one error.
"""

from collections.abc import Callable, Mapping

import torch

from whisper2max.checkpoints.files import short
from whisper2max.checkpoints.names import tensor_shapes, transformers_name
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import CheckpointError

LISTED_FAULTS = 20
ANOTHER = "Its network is another than Whisper's, and no other is converted"
OWN_PARTS = "All of a Whisper is there and more; a network with parts of its own is not converted"
DAMAGED = "The checkpoint is damaged or its configuration belongs to another model; get it again from its source"
EMBEDDING = "decoder.token_embedding.weight"


def assemble(
    tensors: Mapping[str, torch.Tensor],
    dims: ModelDimensions,
    spell: Callable[[str], str],
    where: str,
    tied: str | None = None,
) -> torch.nn.Module:
    """Build the module from the tensors of a checkpoint.

    Args:
        tensors: every tensor of the checkpoint by its name there; float32 ones are taken over without
            a copy, float16 and bfloat16 ones widened.
        dims: the dimensions that the tensors must have.
        spell: the checkpoint's name for a canonical one.
        where: the checkpoint, for messages.
        tied: the checkpoint's name of an output projection. It must equal the token embedding where both are
            present, and is the token embedding where that is not: the two are one tensor.

    Returns:
        transformers' WhisperForConditionalGeneration, eager attention, eval mode, float32.

    Raises:
        CheckpointError: tensors are missing, extra, of another shape or type, or hold NaN or infinity.
    """
    shapes = tensor_shapes(dims)
    sources = {name: spell(name) for name in shapes}
    if sources[EMBEDDING] not in tensors and tied in tensors:
        sources[EMBEDDING] = tied
    claimed = set(sources.values())
    claimed.add(tied)
    others = [f"{short(name)}: belongs to no part of a Whisper" for name in tensors if name not in claimed]
    faults = []
    state: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        tensor = tensors.get(sources[name])
        if tensor is None:
            faults.append(f"{sources[name]}: missing, expected shape {list(shape)}")
            continue
        fault = _fault(tensor, shape)
        if fault is None:
            widened = tensor.detach().to("cpu", torch.float32).contiguous()
            state[transformers_name(name)] = widened
            fault = _non_finite(widened)
        if fault is not None:
            faults.append(f"{sources[name]}: {fault}")
    embedding = tensors.get(sources[EMBEDDING])
    if others and not faults:
        refuse_faults(others, where, OWN_PARTS)
    refuse_faults(others + faults, where)
    if tied in tensors and not _equal(tensors[tied], embedding):
        raise CheckpointError(
            f"{where}: {tied} differs from {sources[EMBEDDING]}, and in a Whisper the two are one tensor. This one was "
            "trained with an output projection of its own; no such network is converted."
        )
    module = build_empty(dims)
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    module.load_state_dict(state, strict=True, assign=True)
    module.tie_weights()
    return module.requires_grad_(False).eval()


def refuse_faults(faults: list[str], where: str, meaning: str = DAMAGED) -> None:
    """Raise one CheckpointError that lists every fault, if there are any, and says what they mean."""
    if not faults:
        return
    listed = "; ".join(faults[:LISTED_FAULTS])
    rest = f"; and {len(faults) - LISTED_FAULTS} more" if len(faults) > LISTED_FAULTS else ""
    count = "1 tensor is" if len(faults) == 1 else f"{len(faults)} tensors are"
    raise CheckpointError(f"{where}: {count} not what the configuration says. {listed}{rest}. {meaning}.")


def refuse_non_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise one CheckpointError that lists every tensor holding NaN or infinity."""
    faults = [(name, _non_finite(tensor)) for name, tensor in tensors.items()]
    refuse_faults([f"{name}: {fault}" for name, fault in faults if fault], where)


def stored_dtype(tensors: Mapping[str, torch.Tensor]) -> str:
    """The type that the tensors are stored in, or all of them when they differ: "float16"."""
    return "+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}))


def build_empty(dims: ModelDimensions) -> torch.nn.Module:
    """transformers' module of these dimensions without memory for its weights."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=dims.n_vocab,
        num_mel_bins=dims.n_mels,
        d_model=dims.n_audio_state,
        encoder_layers=dims.n_audio_layer,
        encoder_attention_heads=dims.n_audio_head,
        encoder_ffn_dim=4 * dims.n_audio_state,
        decoder_layers=dims.n_text_layer,
        decoder_attention_heads=dims.n_text_head,
        decoder_ffn_dim=4 * dims.n_text_state,
        max_source_positions=dims.n_audio_ctx,
        max_target_positions=dims.n_text_ctx,
        pad_token_id=None,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        return WhisperForConditionalGeneration(config)


def _equal(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    if tensor.shape != other.shape or tensor.ndim == 0:
        return tensor.shape == other.shape and bool(tensor == other)
    # by rows, so that a comparison of narrow types takes no third copy of the largest weight
    return all(torch.equal(a.float(), b.float()) for a, b in zip(tensor.split(4096), other.split(4096), strict=True))


def _fault(tensor: torch.Tensor, shape: tuple[int, ...]) -> str | None:
    if tensor.is_nested or tensor.is_meta or tensor.layout != torch.strided:
        return "not a dense tensor with values of its own"
    if tuple(tensor.shape) != shape:
        transposed = " (transposed)" if tuple(tensor.shape) == shape[::-1] else ""
        return f"shape {list(tensor.shape)}{transposed}, expected {list(shape)}"
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"type {str(tensor.dtype).removeprefix('torch.')}, expected float32, float16 or bfloat16"
    return None


def _non_finite(tensor: torch.Tensor) -> str | None:
    lowest, highest = torch.aminmax(tensor.detach())
    if torch.isnan(lowest) or torch.isnan(highest):
        return "holds NaN"
    if torch.isinf(lowest) or torch.isinf(highest):
        return "holds infinity"
    return None
