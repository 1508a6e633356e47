"""This project, through what applications use: whisper2max.load and Model.transcribe."""

from pathlib import Path

import numpy as np

from peers.base import PROMPT, NotOffered, Peer, run_steps, window
from peers.weights import SIZE

OPTIONS = {"language": "en", "condition_on_previous_text": False}


class Whisper2Max(Peer):
    """An artifact. Five sequences share the audio of one window, as beams do."""

    def __init__(self, models: Path, threads: int, variant: Path):
        import whisper2max

        self.model = whisper2max.load(variant, cpu_threads=threads)
        self.engine = self.model.engine

    @classmethod
    def prepare(cls, models: Path, variant: Path) -> None:
        if (variant / "manifest.json").exists():
            return
        import whisper2max

        size, _, dtype = variant.name.partition("-")
        if size != SIZE:
            raise SystemExit(
                f"there is no artifact at {variant}. Only those of the size that the peers have are made here, under "
                f"the names {SIZE} and {SIZE}-DTYPE; make others with `whisper2max convert` first."
            )
        whisper2max.convert(size=size, dtype=dtype or "float32", output=variant, say=print)

    def features(self, samples: np.ndarray) -> np.ndarray:
        return self.model.log_mel(window(samples))[None]

    def encode(self, features: np.ndarray) -> object:
        return self.engine.encode(features)

    def states(self, encoded: object) -> np.ndarray:
        return self.engine.to_numpy(encoded)

    def steps(self, features: np.ndarray, rows: int, count: int) -> tuple[float, list[int]]:
        from whisper2max.runtime.protocol import Rows

        session, n_text_ctx = self.engine.session(rows, 1), self.engine.dims.n_text_ctx
        session.hear(features[0], 0)
        prompt = np.repeat(np.array([PROMPT], np.int64), rows, axis=0)
        picked = np.full((rows, 1), len(PROMPT) - 1, np.int64)
        logits = session.extend(prompt, Rows.apart([0] * rows, [0] * rows, n_text_ctx), picked)

        def step(tokens: np.ndarray, position: int) -> np.ndarray:
            return session.step(tokens, Rows.apart([position] * rows, [0] * rows, n_text_ctx)).argmax(-1)

        return run_steps(step, logits[:, 0].argmax(-1), len(PROMPT), count)

    def transcribe(self, samples: np.ndarray, beam_size: int = 1, batch_size: int = 1) -> str:
        return self._transcribe(samples, beam_size, batch_size)

    def transcribe_file(self, path: Path) -> str:
        return self._transcribe(path, 1, 1)

    def _transcribe(self, audio: np.ndarray | Path, beam_size: int, batch_size: int) -> str:
        from whisper2max.core.errors import UsageError

        asked = {"beam_size": beam_size, "batch_size": batch_size}
        extra = {name: value for name, value in asked.items() if value != 1}
        try:
            segments, _ = self.model.transcribe(audio, **OPTIONS, **extra)
        except UsageError as error:
            unknown = [name for name in extra if f"no option {name}" in str(error)]
            if unknown:
                raise NotOffered(f"this version's transcribe has no {unknown[0]}") from error
            raise
        return "".join(segment.text for segment in segments)
