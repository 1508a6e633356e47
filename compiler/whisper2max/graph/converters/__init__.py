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
from whisper2max.graph.converters.registry import converts, find_converter, registered_names

__all__ = [
    "attention",
    "block",
    "conv1d",
    "converts",
    "decoder",
    "embedding",
    "encoder",
    "find_converter",
    "gelu",
    "layer_norm",
    "linear",
    "registered_names",
    "whisper",
]
