"""transformers on PyTorch, float32, with its default attention."""

from pathlib import Path

import numpy as np

from peers.base import NO_TIMESTAMPS, PROMPT, NotOffered, Peer, run_steps, window
from peers.weights import ctranslate2_directory, transformers_directory

OPTIONS = {"language": "en", "task": "transcribe", "condition_on_prev_tokens": False, "return_timestamps": True}


class Transformers(Peer):
    """WhisperForConditionalGeneration. Five sequences are a batch of five windows."""

    def __init__(self, models: Path, threads: int, variant: str):
        import tokenizers
        import torch
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = WhisperForConditionalGeneration.from_pretrained(
            transformers_directory(models), dtype=torch.float32, local_files_only=True
        ).eval()
        self.extractor = WhisperFeatureExtractor(feature_size=self.model.config.num_mel_bins)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(ctranslate2_directory(models) / "tokenizer.json"))

    @classmethod
    def prepare(cls, models: Path, variant: str) -> None:
        transformers_directory(models)
        ctranslate2_directory(models)

    def features(self, samples: np.ndarray) -> object:
        return self.extractor(window(samples), sampling_rate=16_000, return_tensors="pt").input_features

    def encode(self, features: object) -> object:
        with self.torch.inference_mode():
            return self.model.get_encoder()(features).last_hidden_state

    def states(self, encoded: object) -> np.ndarray:
        return encoded.numpy()

    def steps(self, features: object, rows: int, count: int) -> tuple[float, list[int]]:
        from transformers import DynamicCache, EncoderDecoderCache

        torch = self.torch
        states = self.encode(features).repeat(rows, 1, 1)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

        def decode(tokens: object) -> np.ndarray:
            output = self.model(
                decoder_input_ids=tokens, encoder_outputs=(states,), past_key_values=cache, use_cache=True
            )
            return output.logits[:, -1].argmax(-1).numpy()

        with torch.inference_mode():
            first = decode(torch.tensor([PROMPT] * rows))
            return run_steps(
                lambda tokens, position: decode(torch.from_numpy(tokens)[:, None]), first, len(PROMPT), count
            )

    def transcribe(self, samples: np.ndarray, beam_size: int = 1, batch_size: int = 1) -> str:
        if batch_size != 1:
            raise NotOffered("generate decodes the windows of one recording in order")
        inputs = self.extractor(
            samples, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True,
            truncation=False, padding="max_length" if samples.size < 480_000 else "longest",
        )  # fmt: skip
        with self.torch.inference_mode():
            tokens = self.model.generate(**inputs, **OPTIONS, num_beams=beam_size)
        text = [token for token in tokens[0].tolist() if token <= NO_TIMESTAMPS]
        return self.tokenizer.decode(text, skip_special_tokens=True)
