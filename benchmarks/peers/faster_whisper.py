"""faster-whisper on CTranslate2, from the packaged directory as it is."""

import statistics
import time
from pathlib import Path

import numpy as np

from peers.base import END_OF_TEXT, PROMPT, Peer, window
from peers.weights import ctranslate2_directory

OPTIONS = {"language": "en", "condition_on_previous_text": False, "temperature": 0.0}
SHORT, GENERATIONS = 16, 5


class FasterWhisper(Peer):
    """One compute type.

    CTranslate2 gives out no single step, so a step is the difference between a long and a short generation over
    the number of tokens between them; the prompt and the cross-attention's keys and values drop out. Five
    sequences are the beams of one window.
    """

    def __init__(self, models: Path, threads: int, variant: str):
        from faster_whisper import WhisperModel

        folder = str(ctranslate2_directory(models))
        self.model = WhisperModel(folder, device="cpu", compute_type=variant, cpu_threads=threads, num_workers=1)

    @classmethod
    def prepare(cls, models: Path, variant: str) -> None:
        ctranslate2_directory(models)

    def features(self, samples: np.ndarray) -> np.ndarray:
        return self.model.feature_extractor(window(samples), padding=0)[None]

    def encode(self, features: np.ndarray) -> object:
        import ctranslate2

        return self.model.model.encode(ctranslate2.StorageView.from_array(features), to_cpu=True)

    def states(self, encoded: object) -> np.ndarray:
        return np.array(encoded)

    def steps(self, features: np.ndarray, rows: int, count: int) -> tuple[float, list[int]]:
        encoded = self.encode(features)

        def generate(tokens: int) -> tuple[float, list[int]]:
            started = time.perf_counter()
            # CTranslate2 generates half of max_length, as openai-whisper samples half of the context
            (result,) = self.model.model.generate(
                encoded, [list(PROMPT)], beam_size=rows, max_length=2 * tokens, suppress_tokens=[END_OF_TEXT],
                suppress_blank=False,
            )  # fmt: skip
            seconds = time.perf_counter() - started
            if len(result.sequences_ids[0]) != tokens:
                raise RuntimeError(f"{tokens} tokens were asked for, {len(result.sequences_ids[0])} were generated")
            return seconds, result.sequences_ids[0]

        short, long = zip(*((generate(SHORT)[0], generate(SHORT + count)) for _ in range(GENERATIONS)), strict=True)
        seconds = (statistics.median(each for each, _ in long) - statistics.median(short)) / count
        if seconds <= 0:
            raise RuntimeError(f"{count} more tokens took no longer: the machine is busy with something else")
        return seconds, long[-1][1]

    def transcribe(self, samples: np.ndarray, beam_size: int = 1, batch_size: int = 1) -> str:
        if batch_size == 1:
            return self._text(self.model, samples, beam_size=beam_size)
        from faster_whisper import BatchedInferencePipeline

        return self._text(BatchedInferencePipeline(self.model), samples, beam_size=beam_size, batch_size=batch_size)

    def transcribe_file(self, path: Path) -> str:
        return self._text(self.model, str(path), beam_size=1)

    def _text(self, model: object, audio: np.ndarray | str, **options) -> str:
        return "".join(segment.text for segment in model.transcribe(audio, **OPTIONS, **options)[0])
