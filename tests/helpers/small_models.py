"""Whisper modules of tiny dimensions with random weights, in both families."""

import torch
import whisper.model
from transformers import WhisperConfig, WhisperForConditionalGeneration

from whisper2max.core.dims import ModelDimensions
from whisper2max.graph import passes
from whisper2max.graph.ir import GraphSpec, expected_nodes

VARIANTS = {
    "multilingual_80_mels": ModelDimensions(80, 1500, 32, 2, 2, 51865, 448, 32, 2, 2),
    "english_80_mels": ModelDimensions(80, 1500, 32, 2, 1, 51864, 448, 32, 2, 1),
    "large_v3_128_mels": ModelDimensions(128, 1500, 32, 4, 2, 51866, 448, 32, 4, 2),
    "turbo_unequal_depth": ModelDimensions(128, 1500, 32, 2, 3, 51866, 448, 32, 2, 1),
}

HEADS_OF_64 = ModelDimensions(80, 1500, 64, 1, 2, 51865, 448, 64, 1, 2)
"""As every Whisper has them, and MAX's attention on a GPU wants them."""


def packed_spec(dims: ModelDimensions, dtype: str, backend: str = "cpu") -> GraphSpec:
    """The network of a standard Whisper after the passes of a dtype and backend, without any weights' values."""
    spec = GraphSpec(dims, "float32", dict(expected_nodes(dims)))
    tensors = {name: torch.zeros(shape) for name, shape in spec.parameters().items()}
    return passes.apply(dtype, spec, tensors, backend)[0]


def transformers_module(dims: ModelDimensions, seed: int = 0) -> WhisperForConditionalGeneration:
    """A transformers model in eval mode."""
    torch.manual_seed(seed)
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
    )
    return WhisperForConditionalGeneration(config).eval()


def openai_module(dims: ModelDimensions, seed: int = 0) -> whisper.model.Whisper:
    """An openai-whisper model in eval mode."""
    torch.manual_seed(seed)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(**dims.to_dict())).eval()
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.01)
    return model
