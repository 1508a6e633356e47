"""The audio encoder: two convolutions, positions, blocks and a final norm."""

from whisper2max.graph.converters.registry import converts
from whisper2max.graph.ir import Positions


@converts("transformers.models.whisper.modeling_whisper.WhisperEncoder")
def transformers_encoder(walk, module, path, source):
    children = {
        "conv1": "conv1",
        "conv2": "conv2",
        "positional_embedding": "embed_positions",
        "ln_post": "layer_norm",
    }
    for canonical, name in children.items():
        walk.descend(getattr(module, name), f"{path}.{canonical}", f"{source}.{name}")
    for layer, block in enumerate(module.layers):
        walk.descend(block, f"{path}.blocks.{layer}", f"{source}.layers.{layer}")


@converts("whisper.model.AudioEncoder")
def openai_encoder(walk, module, path, source):
    for name in ("conv1", "conv2", "ln_post"):
        walk.descend(getattr(module, name), f"{path}.{name}", f"{source}.{name}")
    positions = f"{source}.positional_embedding"
    walk.add(f"{path}.positional_embedding", positions, Positions(*module.positional_embedding.shape))
    walk.claim(f"{path}.positional_embedding", positions, module.positional_embedding)
    for layer, block in enumerate(module.blocks):
        walk.descend(block, f"{path}.blocks.{layer}", f"{source}.blocks.{layer}")
