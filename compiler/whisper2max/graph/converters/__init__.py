"""One file per kind of module; importing this package fills the registry that the walker reads."""

from whisper2max.graph.converters import (
    attention,
    block,
    conv1d,
    decoder,
    embedding,
    encoder,
    gelu,
    layer_norm,
    linear,
    whisper,
)
from whisper2max.graph.converters.registry import Walk, converts, registered_names

__all__ = [
    "Walk",
    "attention",
    "block",
    "conv1d",
    "converts",
    "decoder",
    "embedding",
    "encoder",
    "gelu",
    "layer_norm",
    "linear",
    "registered_names",
    "whisper",
]
