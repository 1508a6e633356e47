"""openai-whisper on PyTorch, float32."""

from pathlib import Path

import numpy as np

from peers.base import PROMPT, NotOffered, Peer, run_steps, window
from peers.weights import openai_checkpoint

OPTIONS = {"language": "en", "condition_on_previous_text": False, "temperature": 0.0, "fp16": False}


class OpenAiWhisper(Peer):
    """Five sequences share one window's audio states, as its beam search does it."""

    def __init__(self, models: Path, threads: int, variant: str):
        import torch
        import whisper

        torch.set_num_threads(threads)
        self.torch, self.whisper = torch, whisper
        self.model = whisper.load_model(str(openai_checkpoint(models)), device="cpu")

    @classmethod
    def prepare(cls, models: Path, variant: str) -> None:
        openai_checkpoint(models)

    def features(self, samples: np.ndarray) -> object:
        return self.whisper.log_mel_spectrogram(self.torch.from_numpy(window(samples)))[None]

    def encode(self, features: object) -> object:
        with self.torch.inference_mode():
            return self.model.encoder(features)

    def states(self, encoded: object) -> np.ndarray:
        return encoded.numpy()

    def steps(self, features: object, rows: int, count: int) -> tuple[float, list[int]]:
        from whisper.decoding import PyTorchInference

        torch = self.torch
        states = self.encode(features)
        inference = PyTorchInference(self.model, len(PROMPT))

        def decode(tokens: object) -> np.ndarray:
            return inference.logits(tokens, states)[:, -1].argmax(-1).numpy()

        try:
            with torch.inference_mode():
                first = decode(torch.tensor([PROMPT] * rows))
                return run_steps(
                    lambda tokens, position: decode(torch.from_numpy(tokens)[:, None]), first, len(PROMPT), count
                )
        finally:
            inference.cleanup_caching()  # its hooks would go on to write into this cache

    def transcribe(self, samples: np.ndarray, beam_size: int = 1, batch_size: int = 1) -> str:
        if batch_size != 1:
            raise NotOffered("one window after the other")
        beams = {"beam_size": beam_size} if beam_size > 1 else {}
        return self.whisper.transcribe(self.model, samples, **OPTIONS, **beams)["text"]
