"""whisper2max as a contender: each graph by itself, and decoding as `transcribe` does it."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from max.driver import CPU, Buffer

from gpu.race import Contender, Makers
from whisper2max.runtime.choice import Allowed
from whisper2max.runtime.protocol import Rows

NAME = "whisper2max"
POSITION = 100
"""Where the timed steps are: a window of speech has about 100 tokens."""
PROMPT = 4

_keys = itertools.count(1 << 20)  # of recordings; those of `runtime.replay` begin at 1


class Ours:
    """A loaded model.

    Args:
        model: what `whisper2max.load` gave.

    Attributes:
        allowed: what may follow in the timed steps.
    """

    def __init__(self, model):
        self.model, self.engine, self.dims = model, model.engine, model.engine.dims
        self.allowed = Allowed(
            np.array(model.generation["suppress_tokens"], np.int64),
            together=(model.tokenizer.special.timestamps.start, model.tokenizer.special.timestamps.stop),
        )

    def wait(self) -> None:
        """Until all that was asked of the device is done."""
        if self.engine.device is not None:
            self.engine.device.synchronize()

    def encoder(self, mel: np.ndarray) -> Makers:
        """float32 [windows, n_mels, 3000] -> audio states."""
        return self._both(lambda: [("encoder", [self.engine.placed(mel)])])

    def audio(self, mel: np.ndarray) -> Makers:
        """What the decoder hears of the audio states of these windows, written into the pools."""

        def graphs():
            session = self.engine.session(len(mel), len(mel))
            places = self.engine.placed(np.arange(len(mel)))
            return [("audio", [self.engine.encode(mel), places, *session.pools[2:]])]

        return self._both(graphs)

    def extend(self, mel: np.ndarray) -> Makers:
        """Four tokens of as many rows as windows, and the logits of two of them."""

        def graphs():
            tokens = np.tile(np.array(self.prompt(), np.int64), (len(mel), 1))
            picked = np.tile(np.array([0, PROMPT - 1]), (len(mel), 1))
            return [("extend", [*map(self.engine.placed, (tokens, picked)), *self._rows(mel, 0)])]

        return self._both(graphs)

    def step(self, mel: np.ndarray) -> Makers:
        """One token of as many rows as windows, and the choice of the next, on the device."""

        def graphs():
            tokens = self.engine.placed(np.full(len(mel), self.prompt()[0]))
            inputs = [tokens, *self._rows(mel, POSITION)]
            return [("step", inputs), ("choose", [None, *map(self.engine.placed, self._asked(len(mel)))])]

        return self._both(graphs)

    def token(self, mel: np.ndarray) -> Makers:
        """The same as decoding does it: tokens come from the host, and the choice goes there."""
        n_rows = len(mel)
        tokens, allowed = np.full(n_rows, self.prompt()[0]), [self.allowed] * n_rows
        rows = Rows.apart([POSITION] * n_rows, range(n_rows), self.dims.n_text_ctx)

        def replayed() -> Contender:
            session = self._session(mel)
            return Contender(lambda: session.choose(session.step(tokens, rows), allowed), self.wait)

        def eager() -> Contender:
            session = self._session(mel)
            inputs = (tokens, rows.positions, rows.slots, rows.audios, *session.pools)
            return Contender(lambda: session.choose(self.engine.execute("step", *inputs)[0], allowed), self.wait)

        return {f"{NAME}, replayed": replayed, NAME: eager}

    def logits(self, given: Buffer | np.ndarray) -> np.ndarray:
        """A copy of what a step gave."""
        return given.copy() if isinstance(given, np.ndarray) else given.to(CPU()).to_numpy().copy()

    def prompt(self) -> list[int]:
        """Of English without timestamps."""
        special = self.model.tokenizer.special
        return [special.sot, special.languages["en"], special.transcribe, special.no_timestamps]

    def _asked(self, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        from whisper2max.runtime.choice_on_device import Masks

        masks = Masks(self.dims.n_vocab)
        return masks.asked([self.allowed] * n_rows), masks.masks

    def _session(self, mel: np.ndarray):
        session = self.engine.session(len(mel), len(mel))
        session.project(self.engine.encode(mel), list(range(len(mel))))
        return session

    def _rows(self, mel: np.ndarray, position: int) -> list[Buffer]:
        rows = Rows.apart([position] * len(mel), range(len(mel)), self.dims.n_text_ctx)
        there = map(self.engine.placed, (rows.positions, rows.slots, rows.audios))
        return [*there, *self._session(mel).pools]

    def _both(self, graphs: Callable[[], Sequence[tuple[str, list]]]) -> Makers:
        """Graphs after each other, executed and as they were recorded. An input None is the output of the one before.

        The engine itself records steps alone.
        """

        def eager() -> Contender:
            chain = list(graphs())

            def call() -> list[Buffer]:
                outputs: list[Buffer] = []
                for name, inputs in chain:
                    outputs = self.engine.execute(name, *(outputs[0] if each is None else each for each in inputs))
                return outputs

            return Contender(call, self.wait)

        def replayed() -> Contender:
            chain, recorded = list(graphs()), []
            outputs: list[Buffer] = []
            for name, inputs in chain:
                graph, key = self.engine._graphs[name], next(_keys)
                inputs = [outputs[0] if each is None else each for each in inputs]
                graph.execute(*inputs)  # loads kernels, which cannot be recorded
                self.wait()
                outputs = graph.capture(key, *inputs)
                recorded.append((graph, key, inputs, outputs))

            def call() -> None:
                for graph, key, inputs, _ in recorded:
                    graph.replay(key, *inputs)

            def close() -> None:
                self.wait()
                keys = [(graph, key) for graph, key, _, _ in recorded]
                outputs.clear()
                recorded.clear()  # outputs first
                for graph, key in keys:
                    graph.release_captured_graph(key)

            return Contender(call, self.wait, close=close)

        both = {NAME: eager}
        return both if self.engine.device is None else {f"{NAME}, replayed": replayed, **both}
