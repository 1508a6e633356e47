"""What is measured and what it is measured beside, each loaded when it is first asked for."""

import gc
import importlib.util
import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpu.parts import NotHere
from gpu.samples import EXPECTED, different_windows, recordings


class Loaded:
    """The artifact, and PyTorch's networks of its weights.

    Args:
        artifact: its folder; the recordings are in `samples` beside it.
        torch_on_cpu: whether PyTorch takes part where it has no CUDA.
        most: windows that are asked for at once.
    """

    def __init__(self, artifact: Path, torch_on_cpu: bool, most: int):
        self._artifact, self._torch_on_cpu, self._most = artifact, torch_on_cpu, most
        self._samples = artifact.parent / "samples"
        self.plain, self.huggingface = cache(self._plain), cache(self._huggingface)

    @cached_property
    def ours(self):
        """The artifact, as `ours.Ours`."""
        import whisper2max
        from gpu.ours import Ours

        return Ours(whisper2max.load(self._artifact))

    @property
    def model(self):
        """The artifact, as applications have it."""
        return self.ours.model

    @cached_property
    def where(self) -> str | None:
        """Where PyTorch runs: "cuda", "cpu", or None where it takes no part."""
        if importlib.util.find_spec("torch") is None:
            return None
        import torch

        torch.set_grad_enabled(False)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        return "cuda" if torch.cuda.is_available() else "cpu" if self._torch_on_cpu else None

    def has(self, package: str) -> bool:
        """Whether PyTorch takes part, and what builds on it is installed."""
        return self.where is not None and importlib.util.find_spec(package) is not None

    def require(self, package: str) -> None:
        """Raises `NotHere` unless it is there."""
        if not self.has(package):
            raise NotHere(f"{package} is not installed, or PyTorch sees no CUDA")

    @cached_property
    def recordings(self) -> dict[str, np.ndarray]:
        """By name, float32 [samples] at 16 kHz."""
        return recordings(self._samples)

    @cached_property
    def expected(self) -> dict[str, dict[str, Any]]:
        """By name, what is heard in float32 on a CPU."""
        return json.loads((self._samples / EXPECTED).read_text(encoding="utf-8"))["samples"]

    @cached_property
    def mels(self) -> np.ndarray:
        """Spectrograms of speech, no two the same, float32 [most, n_mels, 3000]."""
        return np.stack([self.model.log_mel(each) for each in different_windows(self.recordings, self._most)])

    @cached_property
    def _stored(self) -> dict[str, Any]:
        from gpu.plain import stored

        return stored(self.model)

    @cached_property
    def _module(self):
        from gpu.huggingface import assembled

        return assembled(self._stored, self.model)

    def _plain(self, dtype: str):
        import torch

        from gpu.plain import Plain

        return Plain(self._stored, self.ours.dims, getattr(torch, dtype), self.where)

    def _huggingface(self, dtype: str):
        import torch

        from gpu.huggingface import HuggingFace

        return HuggingFace(self._module, getattr(torch, dtype), self.where, self.model)

    def tidy(self) -> None:
        """Give back what a part left behind."""
        gc.collect()
        if self.__dict__.get("where") == "cuda":
            import torch

            torch.cuda.empty_cache()

    def answers(self) -> bool:
        """Whether the device does: after a fault no call of its process succeeds."""
        try:
            if "ours" in self.__dict__:
                self.ours.engine.placed(np.zeros(1, np.float32)).to_numpy()
                self.ours.wait()
            if self.__dict__.get("where") == "cuda":
                import torch

                torch.zeros(1, device="cuda").add_(1).item()
        except Exception:
            return False
        return True
