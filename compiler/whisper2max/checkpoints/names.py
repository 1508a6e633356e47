"""Canonical tensor names, which are openai-whisper's, and transformers' names for the same tensors."""

from whisper2max.core.dims import ModelDimensions

# Longer segments first: attn_ln must not be read as attn.
TRANSFORMERS_SEGMENTS = {
    "encoder.positional_embedding": "model.encoder.embed_positions.weight",
    "decoder.positional_embedding": "model.decoder.embed_positions.weight",
    "decoder.token_embedding": "model.decoder.embed_tokens",
    "encoder.ln_post": "model.encoder.layer_norm",
    "decoder.ln": "model.decoder.layer_norm",
    "encoder.": "model.encoder.",
    "decoder.": "model.decoder.",
}
TRANSFORMERS_BLOCK_SEGMENTS = {
    "cross_attn_ln": "encoder_attn_layer_norm",
    "cross_attn": "encoder_attn",
    "attn_ln": "self_attn_layer_norm",
    "attn": "self_attn",
    "mlp_ln": "final_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
}
TRANSFORMERS_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}


def tensor_shapes(dims: ModelDimensions) -> dict[str, tuple[int, ...]]:
    """Canonical name and shape of every stored tensor of a Whisper of these dimensions."""
    audio, text = dims.n_audio_state, dims.n_text_state
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.conv1.weight": (audio, dims.n_mels, 3),
        "encoder.conv1.bias": (audio,),
        "encoder.conv2.weight": (audio, audio, 3),
        "encoder.conv2.bias": (audio,),
        "encoder.positional_embedding": (dims.n_audio_ctx, audio),
    }
    for index in range(dims.n_audio_layer):
        shapes |= _block_shapes(f"encoder.blocks.{index}", audio, ("attn",))
    shapes |= _layer_norm_shapes("encoder.ln_post", audio)
    shapes["decoder.token_embedding.weight"] = (dims.n_vocab, text)
    shapes["decoder.positional_embedding"] = (dims.n_text_ctx, text)
    for index in range(dims.n_text_layer):
        shapes |= _block_shapes(f"decoder.blocks.{index}", text, ("attn", "cross_attn"))
    return shapes | _layer_norm_shapes("decoder.ln", text)


def transformers_name(name: str) -> str:
    """transformers' name of a canonical one: decoder.ln.bias -> model.decoder.layer_norm.bias."""
    if ".blocks." not in name:
        for ours, theirs in TRANSFORMERS_SEGMENTS.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        raise KeyError(name)
    side, _, index, rest = name.split(".", 3)
    for ours, theirs in TRANSFORMERS_BLOCK_SEGMENTS.items():
        if rest.startswith(ours + "."):
            rest = theirs + rest.removeprefix(ours)
            break
    for ours, theirs in TRANSFORMERS_PROJECTIONS.items():
        rest = rest.replace(f".{ours}.", f".{theirs}.")
    return f"model.{side}.layers.{index}.{rest}"


def _block_shapes(path: str, width: int, attentions: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for attention in attentions:
        for projection in ("query", "key", "value", "out"):
            shapes[f"{path}.{attention}.{projection}.weight"] = (width, width)
            if projection != "key":
                shapes[f"{path}.{attention}.{projection}.bias"] = (width,)
        shapes |= _layer_norm_shapes(f"{path}.{attention}_ln", width)
    shapes[f"{path}.mlp.0.weight"] = (4 * width, width)
    shapes[f"{path}.mlp.0.bias"] = (4 * width,)
    shapes[f"{path}.mlp.2.weight"] = (width, 4 * width)
    shapes[f"{path}.mlp.2.bias"] = (width,)
    return shapes | _layer_norm_shapes(f"{path}.mlp_ln", width)


def _layer_norm_shapes(path: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}.weight": (width,), f"{path}.bias": (width,)}
