"""A loaded artifact: what an application imports."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from whisper2max.artifact.artifact import Artifact, open_artifact
from whisper2max.core.errors import UsageError
from whisper2max.core.memory import return_free_memory
from whisper2max.runtime.audio import AudioInput
from whisper2max.runtime.decoding import decode
from whisper2max.runtime.device import place_of
from whisper2max.runtime.features import HOP_LENGTH
from whisper2max.runtime.hypotheses import DecodingResult
from whisper2max.runtime.options import DecodingOptions, transcription_options
from whisper2max.runtime.protocol import Rows
from whisper2max.runtime.results import Segment, TranscriptionInfo
from whisper2max.runtime.threads import require_same_process
from whisper2max.runtime.transcribe import transcribe


class Model:
    """A Whisper model on MAX; calls from several threads do not disturb each other.

        with whisper2max.load("artifacts/base") as model:
            segments, info = model.transcribe("speech.mp3")

    It belongs to the process that loaded it: in one that is forked afterwards every call raises UsageError.

    Attributes:
        artifact: the opened artifact.
        engine: its compiled graphs.
        tokenizer: its tokenizer.
        generation: its generation settings, the content of generation.json.
    """

    def __init__(self, artifact: Artifact, device: str = "auto", cpu_threads: int = 0):
        from whisper2max.runtime.engine import Engine  # which imports MAX; `load` does so while it hashes

        weights = artifact.files["weights.safetensors"].size
        gpu, target = place_of(device, artifact.targets, weights, artifact.path)
        return_free_memory()
        self.artifact = artifact
        self.tokenizer = artifact.tokenizer
        self.generation = artifact.generation
        self.engine = Engine(artifact.files_for(target), artifact.dims, cpu_threads, gpu)
        artifact.files.require_unchanged()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of graphs, weights and files. Every later call raises UsageError, and so do segments under way."""
        self.engine.close()
        self.artifact.close()

    def transcribe(self, audio: AudioInput, **options) -> tuple[Iterator[Segment], TranscriptionInfo]:
        """Transcribe a recording of any length.

        What the checkpoint states is heeded unless the option of that name says otherwise: `suppress_tokens`,
        `begin_suppress_tokens` and `max_initial_timestamp`.

        Args:
            audio: a path, a binary file, encoded bytes, or float32 samples at 16 kHz.
            options: by name, those of `whisper2max.runtime.options.TranscriptionOptions`.

        Returns:
            The segments, decoded while they are iterated, and what is known about the whole recording.

        Raises:
            UsageError: there is no such option, or it is out of range; or the model cannot be used any more.
        """
        self.engine.require_usable()
        stated = {name: tuple(self.generation[name]) for name in ("suppress_tokens", "begin_suppress_tokens")}
        if "max_initial_timestamp" in self.generation:
            stated["max_initial_timestamp"] = self.generation["max_initial_timestamp"]
        return transcribe(self.engine, self.tokenizer, audio, transcription_options(stated | options))

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """The spectrogram of one window: float32 [480000] at 16 kHz -> float32 [n_mels, 3000]."""
        wanted = self.engine.dims.n_frames * HOP_LENGTH
        if samples.shape != (wanted,) or samples.dtype != np.float32:
            raise UsageError(
                f"samples are {samples.dtype} {list(samples.shape)}, expected float32 [{wanted}] at 16 kHz"
            )
        return self.engine.log_mel(samples)

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """float32 [batch, n_mels, 3000] -> audio states float32 [batch, n_audio_ctx, n_audio_state]."""
        return self.engine.to_numpy(self.engine.encode(mel))

    def logits(self, tokens: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Teacher-forced logits float32 [batch, length, n_vocab].

        Args:
            tokens: int64 [batch, length].
            states: audio states as `encode` gives them; with fewer than rows of tokens, as many neighbouring rows hear
                each of them.
        """
        if tokens.ndim != 2 or len(tokens) % len(states):
            raise UsageError(f"{len(states)} rows of audio states, but tokens are {list(tokens.shape)}")
        n_rows, length = tokens.shape
        session = self.engine.session(n_rows, len(states))
        session.project(self.engine.to_states(states), list(range(len(states))))
        audios = np.arange(n_rows) // (n_rows // len(states))
        rows = Rows.apart([0] * n_rows, audios, self.engine.dims.n_text_ctx)
        return session.extend(tokens, rows, np.tile(np.arange(length), (n_rows, 1)))

    def decode(self, mel: np.ndarray, options: list[DecodingOptions]) -> list[DecodingResult]:
        """Decode windows together, each with options of its own, as openai-whisper's `decode` does one.

        Args:
            mel: float32 [batch, n_mels, 3000].
            options: one per window.
        """
        return decode(self.engine, self.tokenizer, mel, options)


def load(artifact: str | Path, device: str = "auto", cpu_threads: int = 0) -> Model:
    """Open an artifact, check all of it, and load its graphs.

    An artifact is native code: load those of people whose programs you would run.

    Args:
        artifact: the directory that convert wrote.
        device: "auto" for what it was compiled for, "cpu", "cuda" for the first GPU, or "cuda:1" for another.
        cpu_threads: threads for the graphs; 0 takes as many as CPUs, or as the quota of its control groups allows.

    Raises:
        ArtifactError: damaged, of another format or MAX version, or compiled for another CPU.
        UsageError: this process was forked from one that had loaded a model; or the device is not there, is another
            than the artifact was compiled for, has an old driver or too little memory.
    """
    require_same_process()
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_artifact, artifact)
        # importing MAX takes as long as hashing the weights, so both happen at once
        import whisper2max.runtime.engine  # noqa: F401

        return Model(opening.result(), device, cpu_threads)
