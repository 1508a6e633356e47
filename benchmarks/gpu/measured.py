"""What is measured on the GPU, part by part."""

import importlib.metadata
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpu.loaded import Loaded
from gpu.machine import ceilings, cuda_facts, facts, gpu
from gpu.parts import Part
from gpu.race import Contender, Makers, race
from gpu.samples import RATE, WINDOW, WINDOW_CLIP, heard, heard_in_turn, long_recording, window

DTYPES = ("bfloat16", "float16")
FIGURES = {"encoder": (1, 8, 64), "audio": (1, 8, 64), "extend": (1, 64), "step": (1, 8, 64), "token": (1, 8, 64)}
"""By name the numbers of windows or rows."""
CHECKED = (1, 8, 64)
BATCH = 64
RUNS, FEWEST = 30, 20
"""Of a figure; what takes seconds is run less often."""


class Measured:
    """The parts.

    Args:
        artifact: its folder.
        rehearse: whether numbers mean nothing, and few will do.
        torch_on_cpu: whether PyTorch takes part where it has no CUDA.
    """

    def __init__(self, artifact: Path, rehearse: bool, torch_on_cpu: bool):
        self._rehearse = rehearse
        most = max(n for sizes in (*FIGURES.values(), CHECKED) for n in self._sizes(sizes))
        self.there = Loaded(artifact, torch_on_cpu, most)

    def parts(self) -> list[Part]:
        """All parts; what tells most comes first."""
        parts = [Part("machine", 2, facts), Part("load", 5, self.load), Part("torch", 10, self.torch)]
        parts += [Part(f"values at {n}", 5, partial(self.values, n)) for n in self._sizes(CHECKED)]
        parts += [Part("tokens", 10, self.tokens), Part("tokens of transformers", 15, self.tokens_of_transformers)]
        for name, sizes in FIGURES.items():
            parts += [Part(f"{name} at {n}", 6 + n / 8, partial(self.figure, name, n)) for n in self._sizes(sizes)]
        parts += [Part("one window", 40, self.one_window), Part("many windows", 50, self.many_windows)]
        parts += [Part("machine after it", 2, gpu), Part("one window compiled", 100, self.one_window_compiled)]
        return parts

    def load(self) -> dict[str, Any]:
        """Version of MAX, and the device as it sees it."""
        device = self.there.ours.engine.device
        seen = "the CPU" if device is None else f"{device.api} {device.architecture_name}"
        return {"max": importlib.metadata.version("max"), "device": seen, "target": self.there.model.artifact.target}

    def torch(self) -> dict[str, Any]:
        """What PyTorch sees, and what this GPU does at most."""
        self.there.require("torch")
        import torch

        if self.there.where == "cpu":
            return {"version": torch.__version__, "where": "the CPU"}
        return {"version": torch.__version__, **cuda_facts(torch), **ceilings(torch)}

    def values(self, n: int) -> dict[str, Any]:
        """Relative errors against PyTorch in float32 on the same weights, beside those of PyTorch in 16 bits."""
        self.there.require("torch")
        from gpu.values import compared

        networks = {dtype: self.there.plain(dtype) for dtype in ("float32", *DTYPES)}
        return compared(self.there.ours, networks, self.there.mels[:n])

    def tokens(self) -> dict[str, Any]:
        """What is heard, against what is heard in float32 on a CPU; once more; and together with other windows."""
        from gpu.values import difference

        model, recordings, found = self.there.model, self.there.recordings, {}
        for name, recording in recordings.items():
            first, again = (heard_in_turn(model, recording) for _ in range(2))
            expected = self.there.expected[name]
            found[name] = {
                **first,
                "expected": difference(first["tokens"], expected["tokens"]),
                "expected text": expected["text"],
                "again": difference(again["tokens"], first["tokens"]),
            }
        mels = np.stack([model.log_mel(window(each)) for each in recordings.values()])
        options = [self._decoding_options()] * len(mels)
        for name, mel, together in zip(recordings, mels, model.decode(mels, options), strict=True):
            (alone,) = model.decode(mel[None], options[:1])
            found[name]["together"] = difference(together.tokens, alone.tokens)
        return found

    def tokens_of_transformers(self) -> dict[str, Any]:
        """What is heard, against transformers in bfloat16 on the same GPU; text alone."""
        self.there.require("transformers")
        from gpu.values import difference

        peer, tokenizer, found = self.there.huggingface("bfloat16"), self.there.model.tokenizer, {}
        for name, recording in self.there.recordings.items():
            (theirs,) = peer.transcribe([window(recording)])
            ours, expected = (
                [token for token in each["tokens"] if token < tokenizer.special.eot]
                for each in (heard_in_turn(self.there.model, recording), self.there.expected[name])
            )
            found[name] = {
                "tokens": theirs,
                "text": tokenizer.decode_with_timestamps(theirs),
                "ours": difference(ours, theirs),
                "expected": difference(theirs, expected),
            }
        return found

    def figure(self, name: str, n: int) -> dict[str, Any]:
        """Seconds of ours and PyTorch's in turn."""
        mel = self.there.mels[:n]
        makers, failed = dict(getattr(self.there.ours, name)(mel)), {}
        for peer, make in self._peers().items():
            try:
                contender = make()
            except Exception:
                failed[peer] = traceback.format_exc()
                continue
            if hasattr(contender, name):
                makers |= getattr(contender, name)(mel)
        found = self._race(makers, RUNS, 4 + n / 8, least=FEWEST)
        return {"figure": name, "size": n, "unit": "ms", **found, "failed": {**failed, **found["failed"]}}

    def one_window(self) -> dict[str, Any]:
        """Seconds for 30 s of speech, samples given."""
        clip = window(self.there.recordings[WINDOW_CLIP])
        makers = {"whisper2max": self._transcribing(clip)}
        if self.there.has("transformers"):
            for dtype in DTYPES:
                makers[f"transformers {dtype}"] = self._generating(dtype, [clip])
            makers["transformers bfloat16, static cache"] = self._generating("bfloat16", [clip], static=True)
        found = self._race(makers, FEWEST, 30, warm_up=2)
        return {"figure": "one window", "size": 1, "unit": "s", "audio": clip.size / RATE, **found}

    def one_window_compiled(self) -> dict[str, Any]:
        """The same for transformers whose decoder PyTorch compiles, which takes its time."""
        self.there.require("transformers")
        clip = window(self.there.recordings[WINDOW_CLIP])
        compiled = self._generating("bfloat16", [clip], static=True, compiled=True)
        makers = {"whisper2max": self._transcribing(clip), "transformers bfloat16, compiled": compiled}
        found = self._race(makers, FEWEST, 20, warm_up=2)
        return {"figure": "one window compiled", "size": 1, "unit": "s", "audio": clip.size / RATE, **found}

    def many_windows(self) -> dict[str, Any]:
        """Seconds for a recording of so many windows, together."""
        count = 4 if self._rehearse else BATCH
        recording = long_recording(self.there.recordings, count)
        windows = list(recording.reshape(count, WINDOW))
        model, ours = self.there.model, self.there.ours

        def transcribe() -> None:
            heard(model, recording, batch_size=count)

        def decode() -> None:
            mels = np.stack([model.log_mel(each) for each in windows])
            model.decode(mels, [self._decoding_options()] * count)

        makers: dict[str, Callable[[], Contender]] = {
            "whisper2max, transcribe": lambda: Contender(transcribe, ours.wait),
            "whisper2max, decode": lambda: Contender(decode, ours.wait),
        }
        if self.there.has("transformers"):
            makers["transformers bfloat16"] = self._generating("bfloat16", windows)
            makers["transformers bfloat16, static cache"] = self._generating("bfloat16", windows, static=True)
        found = self._race(makers, FEWEST, 30, warm_up=1)
        return {"figure": "many windows", "size": count, "unit": "s", "audio": recording.size / RATE, **found}

    def _sizes(self, sizes: tuple[int, ...]) -> list[int]:
        """Where numbers mean nothing, one and several will do."""
        return [1, 2] if self._rehearse else list(sizes)

    def _race(self, makers: Makers, runs: int, seconds: float, **options) -> dict[str, Any]:
        return race(makers, 2, 0, least=1, warm_up=2) if self._rehearse else race(makers, runs, seconds, **options)

    def _decoding_options(self):
        """Of a window, as `transcribe` has them."""
        from whisper2max.runtime.options import DecodingOptions

        names, stated = ("suppress_tokens", "begin_suppress_tokens"), self.there.model.generation
        return DecodingOptions(language="en", **{name: tuple(stated[name]) for name in names})

    def _transcribing(self, clip: np.ndarray) -> Callable[[], Contender]:
        return lambda: Contender(lambda: heard_in_turn(self.there.model, clip), self.there.ours.wait)

    def _generating(
        self, dtype: str, recordings: list[np.ndarray], static: bool = False, compiled: bool = False
    ) -> Callable[[], Contender]:
        def maker() -> Contender:
            from gpu.huggingface import STATIC
            from gpu.plain import waiting

            options = {**STATIC, "disable_compile": not compiled} if static else {}
            peer = self.there.huggingface(dtype)
            return Contender(lambda: peer.transcribe(recordings, **options), waiting(self.there.where))

        return maker

    def _peers(self) -> dict[str, Callable[[], Any]]:
        """What makes each of PyTorch's contenders, by name; they compute in 16 bits."""
        peers: dict[str, Callable[[], Any]] = {}
        for dtype in DTYPES if self.there.where else ():
            peers[f"torch {dtype}"] = partial(self._plain_contender, dtype)
            if self.there.has("transformers"):
                peers[f"transformers {dtype}"] = partial(self.there.huggingface, dtype)
        return peers

    def _plain_contender(self, dtype: str):
        from gpu.plain import PlainContender

        ours = self.there.ours
        return PlainContender(self.there.plain(dtype), ours.prompt(), ours.allowed.suppressed)
