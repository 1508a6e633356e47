"""Residual attention blocks: pre-norm attention, cross-attention in the decoder, then an MLP."""

from whisper2max.graph.converters.registry import converts


@converts("transformers.models.whisper.modeling_whisper.WhisperEncoderLayer")
def transformers_encoder_block(walk, module, path, source):
    _descend_all(walk, module, path, source, _ATTENTION | _MLP)


@converts("transformers.models.whisper.modeling_whisper.WhisperDecoderLayer")
def transformers_decoder_block(walk, module, path, source):
    _descend_all(walk, module, path, source, _ATTENTION | _CROSS_ATTENTION | _MLP)


@converts("whisper.model.ResidualAttentionBlock")
def openai_block(walk, module, path, source):
    names = ["attn_ln", "attn", "mlp_ln"]
    names += ["cross_attn_ln", "cross_attn"] if module.cross_attn is not None else []
    for name in names:
        walk.descend(getattr(module, name), f"{path}.{name}", f"{source}.{name}")
    for number, child in enumerate(module.mlp):
        walk.descend(child, f"{path}.mlp.{number}", f"{source}.mlp.{number}")


_ATTENTION = {"attn_ln": "self_attn_layer_norm", "attn": "self_attn"}
_CROSS_ATTENTION = {"cross_attn_ln": "encoder_attn_layer_norm", "cross_attn": "encoder_attn"}
_MLP = {"mlp_ln": "final_layer_norm", "mlp.0": "fc1", "mlp.1": "activation_fn", "mlp.2": "fc2"}


def _descend_all(walk, module, path, source, children):
    for canonical, name in children.items():
        walk.descend(getattr(module, name), f"{path}.{canonical}", f"{source}.{name}")
