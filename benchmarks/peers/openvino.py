"""OpenVINO's CPU plugin with graphs converted from the transformers module.

OpenVINO is a runtime, not a transcriber: whole recordings go through this project's features and decoding loop, with
OpenVINO in the place of its engine. Differences to our figures are then those of the graphs alone.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peers.base import PROMPT, NotOffered, Peer, run_steps, window
from peers.weights import ctranslate2_directory, dimensions, transformers_directory, write_once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whisper2max.runtime.choice import Allowed, Choice
    from whisper2max.runtime.protocol import Rows

GRAPHS = ("encoder", "cross", "decoder")
DIMS = "dims.json"


class OpenVino(Peer):
    """One inference precision; bf16 is OpenVINO's default where the CPU has it. Five sequences are five windows."""

    def __init__(self, models: Path, threads: int, variant: str):
        from whisper2max.runtime.tokens import Tokenizer

        tokenizer = (ctranslate2_directory(models) / "tokenizer.json").read_bytes()
        self.engine = Engine(models / "openvino", threads, variant)
        self.tokenizer = Tokenizer.from_json(tokenizer, self.engine.dims.n_vocab)

    @classmethod
    def prepare(cls, models: Path, variant: str) -> None:
        def write(folder: Path) -> None:
            _keep_telemetry_out()
            from peers.openvino_export import export

            export(transformers_directory(models), folder)
            (folder / DIMS).write_text(json.dumps(dimensions(models)))

        ctranslate2_directory(models)
        write_once(models / "openvino", write)

    def features(self, samples: np.ndarray) -> np.ndarray:
        from whisper2max.runtime.features import log_mel

        return log_mel(window(samples), self.engine.dims.n_mels)[None]

    def encode(self, features: np.ndarray) -> np.ndarray:
        return self.engine.encode(features)

    def states(self, encoded: np.ndarray) -> np.ndarray:
        return encoded

    def steps(self, features: np.ndarray, rows: int, count: int) -> tuple[float, list[int]]:
        sequences = Sequences(self.engine, np.repeat(self.encode(features), rows, axis=0))
        first = sequences.run(np.repeat(np.array([PROMPT], np.int64), rows, axis=0)).argmax(-1)
        return run_steps(
            lambda tokens, position: sequences.run(tokens[:, None]).argmax(-1), first, len(PROMPT), count
        )

    def transcribe(self, samples: np.ndarray, beam_size: int = 1, batch_size: int = 1) -> str:
        if beam_size != 1 or batch_size != 1:
            raise NotOffered("OpenVINO is a runtime: the loop around it here is greedy, window after window")
        from whisper2max.runtime.options import TranscriptionOptions
        from whisper2max.runtime.transcribe import transcribe

        options = TranscriptionOptions(language="en", condition_on_previous_text=False)
        segments, _ = transcribe(self.engine, self.tokenizer, samples, options)
        return "".join(segment.text for segment in segments)


class Engine:
    """A whisper2max.runtime.protocol.Engine, whose rows each have one slot to themselves and are run one by one."""

    def __init__(self, folder: Path, threads: int, precision: str):
        _keep_telemetry_out()
        import openvino

        from whisper2max.core.dims import ModelDimensions

        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        self.dims = ModelDimensions(**json.loads((folder / DIMS).read_text()))
        self.encoder, self.cross, self.decoder = (
            core.compile_model(folder / f"{name}.xml", "CPU", settings).create_infer_request() for name in GRAPHS
        )

    def features(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        """As whisper2max's, in numpy: float32 [samples] -> float32 [n_mels, frames]."""
        from whisper2max.runtime.features import log_mel_powers

        return log_mel_powers(samples, self.dims.n_mels, padding)

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """float32 [rows, n_mels, 3000] -> float32 [rows, n_audio_ctx, n_audio_state]."""
        self.encoder.infer([mel], share_inputs=True)
        return self.encoder.get_output_tensor(0).data.copy()

    def session(self, slots: int, audios: int) -> "Session":
        """Sequences are begun in slots by a prompt from position 0."""
        return Session(self, slots, audios)


class Session:
    """A whisper2max.runtime.protocol.Session; each picked position costs a run, where one run would give them all."""

    def __init__(self, engine: Engine, slots: int, audios: int):
        self.engine = engine
        self.states: list[np.ndarray | None] = [None] * audios
        self.sequences: list[Sequences | None] = [None] * slots

    def hear(self, mel: np.ndarray, audio: int) -> None:
        """Float32 [n_mels, 3000]; keys and values are made of it when a prompt begins."""
        self.states[audio] = self.engine.encode(mel[None])

    def extend(self, tokens: np.ndarray, rows: "Rows", picked: np.ndarray) -> np.ndarray:
        """As the protocol's."""
        logits = []
        for row, wanted in enumerate(picked.tolist()):
            sequences, done, found = self._sequence(rows, row), 0, {}
            for last in sorted(set(wanted)):
                found[last] = sequences.run(tokens[row : row + 1, done : last + 1])[0]
                done = last + 1
            logits.append([found[each] for each in wanted])
        return np.array(logits)

    def step(self, tokens: np.ndarray, rows: "Rows") -> np.ndarray:
        """As the protocol's."""
        return self.extend(tokens[:, None], rows, np.zeros((len(tokens), 1), np.int64))[:, 0]

    def choose(self, logits: np.ndarray, allowed: "Sequence[Allowed]") -> "list[Choice]":
        """As the protocol's."""
        from whisper2max.runtime.choice import choose_each

        return choose_each(logits, allowed)

    def _sequence(self, rows: "Rows", row: int) -> "Sequences":
        position, slot = int(rows.positions[row]), int(rows.slots[row, 0])
        if (rows.slots[row, : position + 1] != slot).any():
            raise NotOffered("rows that share what they hold")
        if position == 0:
            self.sequences[slot] = Sequences(self.engine, self.states[rows.audios[row]])
        sequence = self.sequences[slot]
        if sequence is None or sequence.length != position:
            raise NotOffered("rows that go back")
        return sequence


class Sequences:
    """Sequences of the same length; the decoder graph takes a cache and gives it back, longer."""

    def __init__(self, engine: Engine, states: np.ndarray):
        dims = engine.dims
        self.decoder = engine.decoder
        engine.cross.infer([states], share_inputs=True)
        self.cross = [output.data.copy() for output in engine.cross.output_tensors]
        width = dims.n_text_state // dims.n_text_head
        empty = np.zeros((len(states), dims.n_text_head, 0, width), np.float32)
        self.cache = [empty] * (2 * dims.n_text_layer)

    @property
    def length(self) -> int:
        """Tokens so far."""
        return self.cache[0].shape[2]

    def run(self, tokens: np.ndarray) -> np.ndarray:
        """int64 [rows, length] after all before them -> logits float32 [rows, n_vocab] of the last."""
        self.decoder.infer([tokens, *self.cross, *self.cache], share_inputs=True)
        logits, *cache = (output.data for output in self.decoder.output_tensors)
        self.cache = [each.copy() for each in cache]
        return logits[:, -1].copy()


def _keep_telemetry_out() -> None:
    """OpenVINO's converter reports its use by network when imported, unless this package is missing."""
    sys.modules.setdefault("openvino_telemetry", None)
