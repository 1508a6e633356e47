"""The text decoder: token and position tables, blocks with cross-attention and a final norm."""

from whisper2max.graph.converters.registry import converts
from whisper2max.graph.ir import Positions


@converts("transformers.models.whisper.modeling_whisper.WhisperDecoder")
def transformers_decoder(walk, module, path, source):
    children = {
        "token_embedding": "embed_tokens",
        "positional_embedding": "embed_positions",
        "ln": "layer_norm",
    }
    for canonical, name in children.items():
        walk.descend(getattr(module, name), f"{path}.{canonical}", f"{source}.{name}")
    for layer, block in enumerate(module.layers):
        walk.descend(block, f"{path}.blocks.{layer}", f"{source}.layers.{layer}")


@converts("whisper.model.TextDecoder")
def openai_decoder(walk, module, path, source):
    walk.descend(module.token_embedding, f"{path}.token_embedding", f"{source}.token_embedding")
    positions = f"{source}.positional_embedding"
    walk.add(f"{path}.positional_embedding", positions, Positions(*module.positional_embedding.shape))
    walk.claim(f"{path}.positional_embedding", positions, module.positional_embedding)
    for layer, block in enumerate(module.blocks):
        walk.descend(block, f"{path}.blocks.{layer}", f"{source}.blocks.{layer}")
    walk.descend(module.ln, f"{path}.ln", f"{source}.ln")
    if "mask" in dict(module.named_buffers()):
        walk.claim_derived(f"{source}.mask", "causal mask of the text context")
