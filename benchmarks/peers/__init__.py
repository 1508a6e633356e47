"""The programs that are compared: one file each, all behind the interface of `base.Peer`.

`PEERS` names them; an artifact of this project enters under the name `artifact_name` gives it.
"""

from importlib import import_module
from pathlib import Path

from peers.base import Peer

OURS = "whisper2max"

# Name in the table: module, class, what its constructor is given besides the folder and the threads.
PEERS = {
    "faster-whisper float32": ("peers.faster_whisper", "FasterWhisper", "float32"),
    "faster-whisper int8": ("peers.faster_whisper", "FasterWhisper", "int8"),
    "whisper.cpp f16": ("peers.whisper_cpp", "WhisperCpp", "f16"),
    "OpenVINO float32": ("peers.openvino", "OpenVino", "f32"),
    "OpenVINO bfloat16": ("peers.openvino", "OpenVino", "bf16"),
    "openai-whisper float32": ("peers.openai_whisper", "OpenAiWhisper", "float32"),
    "transformers float32": ("peers.transformers", "Transformers", "float32"),
}

# Packages whose versions are conditions of the figures.
PACKAGES = (
    "whisper2max", "max", "faster-whisper", "ctranslate2", "pywhispercpp", "openvino", "openai-whisper",
    "transformers", "torch", "numpy",
)  # fmt: skip


def artifact_name(artifact: Path) -> str:
    """The name of an artifact of ours: artifacts/base-int8 -> "whisper2max base-int8"."""
    return f"{OURS} {artifact.name}"


def peer_class(name: str) -> type[Peer]:
    """The class behind a name, its library not loaded yet."""
    module, attribute, _ = PEERS.get(name, ("peers.whisper2max", "Whisper2Max", None))
    return getattr(import_module(module), attribute)


def variant(name: str, artifact: Path | None) -> str | Path:
    """What the constructor is given: the data type of a peer, the path of an artifact of ours."""
    if name in PEERS:
        return PEERS[name][2]
    if artifact is None:
        raise SystemExit(f"{name!r} is not a peer. The peers are: {', '.join(PEERS)}; or give --artifact.")
    return artifact
