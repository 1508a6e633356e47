"""The torch side of a comparison: the walked module itself, run as its authors wrote it."""

import importlib.metadata
from collections.abc import Callable

import numpy as np
import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from whisper2max.converters.registry import qualified_name
from whisper2max.errors import SpecError


class Reference:
    """Audio states, logits and greedy tokens of a PyTorch Whisper in float32.

    Args:
        module: `transformers.WhisperForConditionalGeneration` or openai-whisper's `Whisper`, eval mode.
    """

    def __init__(self, module: torch.nn.Module):
        families = {
            "transformers.models.whisper.modeling_whisper.WhisperForConditionalGeneration": _Transformers,
            "whisper.model.Whisper": _OpenAI,
        }
        name = qualified_name(module)
        if name not in families:
            raise SpecError(f"no reference for a {name}; expected one of {', '.join(families)}")
        self._family = families[name](module)
        package = {"transformers": "transformers", "whisper": "openai-whisper"}[name.partition(".")[0]]
        versions = ", ".join(f"{each} {importlib.metadata.version(each)}" for each in (package, "torch"))
        self.description = f"{name.rpartition('.')[2]} ({versions}, float32)"

    @torch.inference_mode()
    def encode(self, mel: np.ndarray) -> np.ndarray:
        """float32 [batch, n_mels, frames] -> audio states float32 [batch, n_audio_ctx, n_audio_state]."""
        return self._family.encode(torch.from_numpy(mel)).numpy()

    @torch.inference_mode()
    def logits(self, tokens: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Teacher-forced logits float32 [batch, length, n_vocab] of int64 [batch, length]."""
        return self._family.logits(torch.from_numpy(tokens), torch.from_numpy(states)).float().numpy()

    @torch.inference_mode()
    def greedy(self, prompt: list[int], states: np.ndarray, limit: int, eot: int) -> list[int]:
        """Most probable next tokens after `prompt`, at most `limit`, up to and including `eot`."""
        step = self._family.incremental(torch.from_numpy(states))
        tokens: list[int] = []
        fed = prompt
        while len(tokens) < limit and (not tokens or tokens[-1] != eot):
            tokens.append(int(step(torch.tensor([fed]))[0, -1].argmax()))
            fed = tokens[-1:]
        return tokens


Step = Callable[[torch.Tensor], torch.Tensor]


class _Transformers:
    def __init__(self, module: torch.nn.Module):
        self.module = module

    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        return self.module.model.encoder(mel).last_hidden_state

    def logits(self, tokens: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        encoded = BaseModelOutput(last_hidden_state=states)
        return self.module(decoder_input_ids=tokens, encoder_outputs=encoded, use_cache=False).logits

    def incremental(self, states: torch.Tensor) -> Step:
        encoded = BaseModelOutput(last_hidden_state=states)
        cache = None

        def step(tokens: torch.Tensor) -> torch.Tensor:
            nonlocal cache
            output = self.module(
                decoder_input_ids=tokens, encoder_outputs=encoded, past_key_values=cache, use_cache=True
            )
            cache = output.past_key_values
            return output.logits

        return step


class _OpenAI:
    def __init__(self, module: torch.nn.Module):
        self.module = module

    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        return self.module.encoder(mel)

    def logits(self, tokens: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return self.module.decoder(tokens, states)

    def incremental(self, states: torch.Tensor) -> Step:
        fed = torch.empty((1, 0), dtype=torch.int64)

        def step(tokens: torch.Tensor) -> torch.Tensor:
            nonlocal fed
            fed = torch.cat([fed, tokens], dim=1)
            return self.module.decoder(fed, states)

        return step


def reference_log_mel(samples: np.ndarray, n_mels: int) -> np.ndarray:
    """transformers' numpy features of 30 s: float32 [480000] at 16 kHz -> float32 [n_mels, 3000].

    The numpy path, because the extractor's torch path differs from it by 2.4e-5.
    """
    extractor = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    return extractor._np_extract_fbank_features(samples[None], "cpu")[0].astype(np.float32)
