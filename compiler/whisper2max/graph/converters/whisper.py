"""The whole model of each family: an encoder, a decoder and logits tied to the token embedding."""

from whisper2max.graph.converters.registry import converts


@converts("transformers.models.whisper.modeling_whisper.WhisperForConditionalGeneration")
def transformers_whisper(walk, module, path, source):
    walk.require("config", "scale_embedding", module.config.scale_embedding, False)
    walk.descend(module.model.encoder, "encoder", "model.encoder")
    walk.descend(module.model.decoder, "decoder", "model.decoder")
    walk.require("proj_out", "bias", module.proj_out.bias, None)
    walk.claim_alias("proj_out.weight", module.proj_out.weight, of="decoder.token_embedding.weight")


@converts("whisper.model.Whisper")
def openai_whisper(walk, module, path, source):
    walk.descend(module.encoder, "encoder", "encoder")
    walk.descend(module.decoder, "decoder", "decoder")
    if "alignment_heads" in dict(module.named_buffers()):
        walk.claim_derived("alignment_heads", "kept in generation.json")
