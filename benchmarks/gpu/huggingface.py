"""transformers' Whisper as a contender, on the same weights."""

import copy
from collections.abc import Callable

import numpy as np
import torch

from gpu.ours import POSITION, PROMPT
from gpu.plain import both, waiting
from gpu.race import Contender, Makers
from gpu.samples import RATE, WINDOW

GENERATE = {"language": "en", "task": "transcribe", "return_timestamps": True, "condition_on_prev_tokens": False}
STATIC = {"cache_implementation": "static", "disable_compile": True}


class HuggingFace:
    """WhisperForConditionalGeneration with PyTorch's fused attention.

    Args:
        module: in float32, as `assembled` gives it; it is copied.
        dtype: of weights and values.
        where: "cuda" or "cpu".
        model: the loaded artifact; its tokenizer tells text from timestamps.
    """

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype, where: str, model):
        from transformers import WhisperFeatureExtractor

        self.module = copy.deepcopy(module).to(where, dtype)
        self.dtype, self.where, self.tokenizer = dtype, where, model.tokenizer
        self.name = f"transformers {str(dtype).removeprefix('torch.')}"
        self._extractor = WhisperFeatureExtractor(feature_size=module.config.num_mel_bins)

    def encoder(self, mel: np.ndarray) -> Makers:
        def prepared():
            x = self._mel(mel)
            return Contender(lambda: self.module.model.encoder(x).last_hidden_state, waiting(self.where))

        return both(self.name, prepared, self.where)

    def audio(self, mel: np.ndarray) -> Makers:
        def prepared():
            states = self._states(mel)
            layers = [layer.encoder_attn for layer in self.module.model.decoder.layers]
            projections = [project for layer in layers for project in (layer.k_proj, layer.v_proj)]
            return Contender(lambda: [project(states) for project in projections], waiting(self.where))

        return both(self.name, prepared, self.where)

    def extend(self, mel: np.ndarray) -> Makers:
        return self._decoding(mel, PROMPT, 0, lambda logits: logits)

    def step(self, mel: np.ndarray) -> Makers:
        return self._decoding(mel, 1, POSITION, lambda logits: logits[:, -1].argmax(-1))

    def transcribe(self, recordings: list[np.ndarray], **options) -> list[list[int]]:
        """Ids of the text of recordings of float32 at 16 kHz, without timestamps; features are made on the device."""
        long = max(each.size for each in recordings) > WINDOW
        inputs = self._extractor(
            recordings, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True, device=self.where,
            truncation=False, padding="longest" if long else "max_length",
        )  # fmt: skip
        features = inputs.input_features.to(self.where, self.dtype)
        mask = inputs.attention_mask.to(self.where)
        rows = self.module.generate(features, attention_mask=mask, **{**GENERATE, **options})
        eot = self.tokenizer.special.eot
        return [[token for token in row if token < eot] for row in rows.tolist()]

    def _mel(self, mel: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(mel).to(self.where, self.dtype)

    def _states(self, mel: np.ndarray) -> torch.Tensor:
        return self.module.model.encoder(self._mel(mel)).last_hidden_state

    def _decoding(self, mel: np.ndarray, length: int, position: int, chosen: Callable) -> Makers:
        """Tokens after as many positions that are in the cache. The mask is given, which saves making one."""
        from transformers import DynamicCache, EncoderDecoderCache, StaticCache

        config, decoder = self.module.config, self.module.model.decoder
        n_rows, n_text_ctx = len(mel), config.max_target_positions

        def prepared():
            states = self._states(mel)
            kept = StaticCache(config=config, max_cache_len=n_text_ctx)
            cache = EncoderDecoderCache(kept, DynamicCache())
            tokens = torch.full((n_rows, length), config.decoder_start_token_id, device=self.where)
            positions = torch.arange(position, position + length, device=self.where)
            seen = torch.arange(n_text_ctx, device=self.where) <= positions[:, None]
            seen = seen.expand(n_rows, 1, length, n_text_ctx)
            positions = positions.expand(n_rows, length)

            def call() -> torch.Tensor:
                hidden = decoder(
                    input_ids=tokens, position_ids=positions, attention_mask=seen, encoder_hidden_states=states,
                    past_key_values=cache, use_cache=True,
                ).last_hidden_state  # fmt: skip
                return chosen(self.module.proj_out(hidden[:, [0, -1]] if length > 1 else hidden))

            def rewind() -> None:
                for layer in kept.layers:
                    layer.cumulative_length.fill_(position)

            call()  # makes the caches, and keeps what is heard
            rewind()
            return Contender(call, waiting(self.where), before=rewind)

        return both(self.name, prepared, self.where)


def assembled(weights: dict[str, torch.Tensor], model) -> torch.nn.Module:
    """transformers' module of the weights that `plain.stored` gives, in float32 on the host."""
    from whisper2max.checkpoints.assemble import assemble
    from whisper2max.checkpoints.generation import configure_transformers

    tensors = {}
    for name, tensor in weights.items():
        before, parts, after = apart(name)
        for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True):
            tensors[f"{before}{part}{after}"] = piece
    tensors = {name: piece for name, piece in tensors.items() if not name.endswith(".key.bias")}  # zeros
    module = assemble(tensors, model.engine.dims, str, "the artifact")
    module.set_attn_implementation("sdpa")
    configure_transformers(module, model.generation, model.tokenizer.padding)
    return module


def apart(name: str) -> tuple[str, list[str], str]:
    """What a name of joined projections begins with, the projections, and its end."""
    for joined in ("query_key_value", "key_value"):
        before, found, after = name.partition(f".{joined}.")
        if found:
            return f"{before}.", joined.split("_"), f".{after}"
    return name, [""], ""
