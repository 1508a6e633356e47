"""PyTorch Whisper to Modular MAX: convert a checkpoint, prove the result, transcribe with it.

    artifact = whisper2max.convert(size="base")
    report = whisper2max.verify("artifacts/base")
    model = whisper2max.load("artifacts/base")
    segments, info = model.transcribe("speech.mp3")

Importing this package imports neither torch, jinja2 nor max: each name below is fetched on first use.
No submodule bears the name of a public function, so that importing one never shadows it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisper2max.conversion import convert
    from whisper2max.core.dims import ModelDimensions
    from whisper2max.core.errors import Whisper2MaxError
    from whisper2max.runtime.model import load
    from whisper2max.verification import verify

__all__ = ["ModelDimensions", "Whisper2MaxError", "__version__", "convert", "load", "verify"]

__version__ = "0.1.0"

_HOMES = {
    "ModelDimensions": "whisper2max.core.dims",
    "Whisper2MaxError": "whisper2max.core.errors",
    "convert": "whisper2max.conversion",
    "load": "whisper2max.runtime.model",
    "verify": "whisper2max.verification",
}


def __getattr__(name: str):
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
