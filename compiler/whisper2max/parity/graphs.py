"""The compiled graphs of an artifact behind one face: those that ship, and those that give every value on the way.

The second are the same kernels in the same order with more outputs, compiled once per dimensions, dtype and target and
kept in the user's cache. That they are the same program is checked: on the same inputs both give the same bits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.engine import Model

from whisper2max.build.compiler import Source, compile_tapped
from whisper2max.build.target import Target
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.held import HeldFile
from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.taps import LOGITS, STATES, block_taps, graph_taps
from whisper2max.runtime.engine import Engine, Session
from whisper2max.runtime.features_graph import FeaturesGraph
from whisper2max.runtime.graphs import empty_pools, load_graph
from whisper2max.runtime.protocol import Rows
from whisper2max.runtime.threads import shared_session
from whisper2max.runtime.weights import map_weights

Values = dict[str, np.ndarray]


class Decoder(Protocol):
    """Pools of slots and audios, and the graphs that use them. Values are float32 [rows, length, width] by path."""

    def project(self, states: Buffer, audio: int) -> Values:
        """Fill a place of the audio pool from audio states [1, n_audio_ctx, n_audio_state]."""

    def extend(self, tokens: np.ndarray, rows: Rows, picked: np.ndarray) -> Values:
        """As `runtime.protocol.Session.extend`; logits are those of the picked tokens."""

    def step(self, tokens: np.ndarray, rows: Rows) -> Values:
        """As `runtime.protocol.Session.step`; length is 1."""


class Graphs(Protocol):
    """Encoder and decoder of one artifact.

    Attributes:
        build: "shipped" or "tapped".
        dims: sizes of the model.
    """

    build: str
    dims: ModelDimensions

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """The log-mel spectrogram of float32 [samples]."""

    def encode(self, mel: np.ndarray) -> tuple[Buffer, Values]:
        """A handle to the audio states of float32 [n_mels, 2 * n_audio_ctx], and values."""

    def decoder(self, slots: int, audios: int) -> Decoder:
        """Empty pools."""


class ShippedGraphs:
    """The graphs of an artifact as the runtime uses them: they give audio states and logits.

    Args:
        engine: of the artifact.
    """

    build = "shipped"

    def __init__(self, engine: Engine):
        self.engine = engine
        self.dims = engine.dims

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """As of `Graphs`."""
        return self.engine.log_mel(samples)

    def encode(self, mel: np.ndarray) -> tuple[Buffer, Values]:
        """As of `Graphs`."""
        states = self.engine.encode(mel[None])
        return states, {STATES: self.engine.to_numpy(states)}

    def decoder(self, slots: int, audios: int) -> Decoder:
        """As of `Graphs`."""
        return _ShippedDecoder(self.engine, self.engine.session(slots, audios))


class _ShippedDecoder:
    def __init__(self, engine: Engine, session: Session):
        self._engine, self._session = engine, session

    def project(self, states: Buffer, audio: int) -> Values:
        self._session.project(states, [audio])
        return {}

    def extend(self, tokens: np.ndarray, rows: Rows, picked: np.ndarray) -> Values:
        return {LOGITS: self._session.extend(tokens, rows, picked)}

    def step(self, tokens: np.ndarray, rows: Rows) -> Values:
        logits = self._session.step(tokens, rows)
        logits = logits if isinstance(logits, np.ndarray) else self._engine.to_numpy(logits)
        return {LOGITS: logits[:, None]}


class TappedGraphs:
    """The graphs of an artifact with all their values as outputs.

    Args:
        files: model.py, kernels/*.mojo, weights.safetensors and features.mef, held.
        spec: the network.
        target: what the graphs are compiled for.
        say: told what is compiling.
    """

    build = "tapped"

    def __init__(self, files: Mapping[str, HeldFile], spec: GraphSpec, target: Target, say: Callable[[str], None]):
        self.dims = spec.dims
        self._paths = graph_taps(spec)
        # MAX reads the mapped arrays in place, so they live as long as the graphs
        self._weights = map_weights(files["weights.safetensors"])
        session, compiled = shared_session(), compile_tapped(Source.of(files), self._paths, target, say)
        self._graphs = {name: load_graph(session, mef, self._weights) for name, mef in compiled.items()}
        self._features = FeaturesGraph(session, files["features.mef"], spec.dims)

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """As of `Graphs`."""
        return self._features.log_mel(samples)

    def encode(self, mel: np.ndarray) -> tuple[Buffer, Values]:
        """As of `Graphs`."""
        states, *values = self.execute("encoder", mel[None])
        return states, _by_path(self._paths["encoder"], values)

    def decoder(self, slots: int, audios: int) -> Decoder:
        """As of `Graphs`."""
        return _TappedDecoder(self.execute, self._paths, empty_pools(self._graphs["step"], slots, audios))

    def execute(self, name: str, *inputs: np.ndarray | Buffer) -> list[Buffer]:
        """Outputs of a graph: its own, then its values."""
        return self._graphs[name].execute(*map(_buffer, inputs))


class _TappedDecoder:
    def __init__(self, execute: Callable[..., list[Buffer]], paths: Mapping[str, Sequence[str]], pools: list[Buffer]):
        self._execute = execute
        self._paths = paths
        self._pools = pools

    def project(self, states: Buffer, audio: int) -> Values:
        places = np.array([audio], np.int64)
        return _by_path(self._paths["audio"], self._execute("audio", states, places, *self._pools[2:]))

    def extend(self, tokens: np.ndarray, rows: Rows, picked: np.ndarray) -> Values:
        _, *values = self._execute("extend", tokens, picked, *vars(rows).values(), *self._pools)
        return _by_path(self._paths["extend"], values)

    def step(self, tokens: np.ndarray, rows: Rows) -> Values:
        _, *values = self._execute("step", tokens, *vars(rows).values(), *self._pools)
        return _by_path(self._paths["step"], values)


class BlockGraphs:
    """One block of encoder and decoder by itself, initialised with the weights of any layer.

    Args:
        files: model.py, kernels/*.mojo, weights.safetensors and the compiled graphs, held.
        spec: the network.
        target: what the graphs are compiled for.
        say: told what is compiling.
    """

    def __init__(self, files: Mapping[str, HeldFile], spec: GraphSpec, target: Target, say: Callable[[str], None]):
        self._dims = spec.dims
        self._weights = map_weights(files["weights.safetensors"])
        self._audio = load_graph(shared_session(), files["audio.mef"], self._weights)
        sides = ("encoder", "decoder")
        self._paths = {f"{side}_block": list(block_taps(spec, side)) for side in sides}
        self._compiled = compile_tapped(Source.of(files), self._paths, target, say)

    def encoder_block(self, layer: int, x: np.ndarray) -> Values:
        """Values of encoder.blocks.`layer` on float32 [1, n_audio_ctx, n_audio_state]."""
        return self._run("encoder", layer, lambda block: [x])

    def decoder_block(self, layer: int, x: np.ndarray, states: np.ndarray) -> Values:
        """Values of decoder.blocks.`layer` on float32 [1, length, n_text_state] from position 0, given audio states."""

        def inputs(block: Model) -> list[np.ndarray | Buffer]:
            rows = Rows(np.zeros(1, np.int64), np.zeros((1, self._dims.n_text_ctx), np.int32), np.zeros(1, np.int64))
            pools = empty_pools(block, 1, 1)
            self._audio.execute(_buffer(states), _buffer(rows.audios), *pools[2:])
            # a block by itself reads layer 0 of what all layers hear
            for pool in pools[2:]:
                n_bytes = math.prod(pool.shape[2:]) * pool.dtype.size_in_bytes
                layers = pool.view(DType.uint8, (pool.shape[1], n_bytes)).to_numpy()
                layers[0] = layers[layer]
            return [x, *vars(rows).values(), *pools]

        return self._run("decoder", layer, inputs)

    def _run(self, side: str, layer: int, inputs: Callable[[Model], list[np.ndarray | Buffer]]) -> Values:
        first, block = f"{side}.blocks.0", f"{side}.blocks.{layer}"
        weights = {
            first + name.removeprefix(block): array
            for name, array in self._weights.items()
            if name.startswith(f"{block}.")
        }
        name = f"{side}_block"
        model = load_graph(shared_session(), self._compiled[name], weights)
        _, *values = model.execute(*map(_buffer, inputs(model)))
        return {block + path.removeprefix(first): value for path, value in _by_path(self._paths[name], values).items()}


def _buffer(value: np.ndarray | Buffer) -> Buffer:
    return Buffer.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _by_path(paths: Sequence[str], outputs: Sequence[Buffer]) -> Values:
    return {path: output.to_numpy() for path, output in zip(paths, outputs, strict=True)}
