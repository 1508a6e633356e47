"""whisper.cpp through pywhispercpp, float16 matrices, in the build that its wheel has."""

from pathlib import Path

import numpy as np

from peers.base import PROMPT, NotOffered, Peer, run_steps, window
from peers.weights import ctranslate2_directory, ggml_file

OPTIONS = {
    "language": "en",
    "no_context": True,
    "temperature_inc": 0.0,
    "suppress_nst": True,
    "print_progress": False,
    "print_timestamps": False,
}
# The binding gives out one logit, so a step is fed what a greedy decoder would have chosen for the 11 s clip.
SPOKEN = " And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country."


class WhisperCpp(Peer):
    """Steps decode given tokens, because the binding does not give out the logits; the choice is not in the time."""

    def __init__(self, models: Path, threads: int, variant: str):
        import _pywhispercpp
        from pywhispercpp.model import Model

        self.threads = threads
        self.file = str(ggml_file(models))
        self.library = _pywhispercpp
        self.open = Model
        self.spoken = ctranslate2_directory(models) / "tokenizer.json"
        self.model = self._load(1)

    @classmethod
    def prepare(cls, models: Path, variant: str) -> None:
        ggml_file(models)
        ctranslate2_directory(models)

    def _load(self, beam_size: int) -> object:
        search = {"beam_search": {"beam_size": beam_size, "patience": -1.0}} if beam_size > 1 else {}
        return self.open(
            self.file, params_sampling_strategy=int(beam_size > 1), redirect_whispercpp_logs_to=None,
            n_threads=self.threads, greedy={"best_of": 1}, **search, **OPTIONS,
        )  # fmt: skip

    def features(self, samples: np.ndarray) -> np.ndarray:
        samples = window(samples)
        if self.library.whisper_pcm_to_mel(self.model._ctx, samples, samples.size, self.threads):
            raise RuntimeError("whisper_pcm_to_mel failed")
        return samples

    def encode(self, features: np.ndarray) -> None:
        # The context keeps both the spectrogram of `features` and the audio states.
        if self.library.whisper_encode(self.model._ctx, 0, self.threads):
            raise RuntimeError("whisper_encode failed")

    def states(self, encoded: None) -> None:
        return None

    def steps(self, features: np.ndarray, rows: int, count: int) -> tuple[float, list[int]]:
        if rows > 1:
            raise NotOffered("the binding has no batch of sequences")
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(self.spoken))
        spoken = tokenizer.encode(SPOKEN, add_special_tokens=False).ids
        self.encode(features)
        for position, token in enumerate(PROMPT):
            self._decode(token, position)

        def step(tokens: np.ndarray, position: int) -> np.ndarray:
            self._decode(int(tokens[0]), position)
            return np.array([spoken[(position + 1 - len(PROMPT)) % len(spoken)]])

        return run_steps(step, np.array(spoken[:1]), len(PROMPT), count)

    def _decode(self, token: int, position: int) -> None:
        if self.library.whisper_decode(self.model._ctx, token, 1, position, self.threads):
            raise RuntimeError("whisper_decode failed")
        if not np.isfinite(self.library.whisper_get_logits(self.model._ctx)):
            raise RuntimeError("whisper_decode gave a logit that is no number")

    def transcribe(self, samples: np.ndarray, beam_size: int = 1, batch_size: int = 1) -> str:
        if batch_size != 1:
            raise NotOffered("one window after the other")
        model = self.model if beam_size == 1 else self._load(beam_size)
        return " ".join(segment.text for segment in model.transcribe(samples))
