"""The compiled graphs of an artifact behind one face: those that ship, and those that give every value on the way.

The second are the same kernels in the same order with more outputs, compiled once per dimensions, dtype and target and
kept in the user's cache. That they are the same program is checked: on the same inputs both give the same bits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from max.driver import Accelerator, Buffer
from max.dtype import DType
from max.engine import Model

from whisper2max.artifact.artifact import Artifact
from whisper2max.build.compiler import Source, compile_tapped
from whisper2max.build.target import Target
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.held import HeldFile
from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.taps import LOGITS, STATES, block_taps, graph_taps
from whisper2max.runtime.choice import Allowed
from whisper2max.runtime.device import Place, place_of
from whisper2max.runtime.engine import Engine, Session
from whisper2max.runtime.features_graph import FeaturesGraph
from whisper2max.runtime.graphs import empty_pools, load_graph, placed
from whisper2max.runtime.protocol import Rows
from whisper2max.runtime.threads import gpu_session, shared_session
from whisper2max.runtime.weights import copied_to, map_weights

Values = dict[str, np.ndarray]


def place_to_judge(device: str, artifact: Artifact) -> Place:
    """Where to judge the graphs of an artifact: on a GPU, or on this CPU, where their network can be.

    Args:
        device: "cpu", or as for `place_of`.
        artifact: whose graphs they are.

    Raises:
        UsageError: as for `place_of`.
    """
    if device == "cpu":
        return Place(None, artifact.target)
    return place_of(device, artifact.targets, 2 * artifact.files["weights.safetensors"].size, artifact.path)


class Decoder(Protocol):
    """Pools of slots and audios, and the graphs that use them. Values are float32 [rows, length, width] by path."""

    def project(self, states: Buffer, audio: int) -> Values:
        """Fill a place of the audio pool from audio states [1, n_audio_ctx, n_audio_state]."""

    def extend(self, tokens: np.ndarray, rows: Rows, picked: np.ndarray) -> Values:
        """As `runtime.protocol.Session.extend`; logits are those of the picked tokens."""

    def step(self, tokens: np.ndarray, rows: Rows) -> Values:
        """As `runtime.protocol.Session.step`; length is 1."""

    def most_probable(self, logits: np.ndarray) -> list[int]:
        """The token of each row of float32 [rows, n_vocab], where every token may follow."""


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

    def states(self, values: np.ndarray) -> Buffer:
        """A handle to audio states float32 [windows, n_audio_ctx, n_audio_state]."""

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

    def states(self, values: np.ndarray) -> Buffer:
        """As of `Graphs`."""
        return self.engine.to_states(values)

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

    def most_probable(self, logits: np.ndarray) -> list[int]:
        given = self._engine.placed(logits) if self._engine.chooses else logits.copy()
        return [choice.token for choice in self._session.choose(given, [Allowed(np.empty(0, np.int64))] * len(logits))]


class _Device:
    """Where graphs are loaded that do not ship.

    Args:
        gpu: its number; None for the CPU.
        weights: weights.safetensors, held.

    Attributes:
        device: the GPU; None for the CPU.
        session: on it.
        weights: by name, on it. MAX reads mapped arrays in place, so they live as long as the graphs.
    """

    def __init__(self, gpu: int | None, weights: HeldFile):
        self.weights: Mapping[str, np.ndarray | Buffer] = map_weights(weights)
        if gpu is None:
            self.device, self.session = None, shared_session()
        else:
            self.device = Accelerator(gpu)
            self.session, self.weights = gpu_session(self.device), copied_to(self.device, self.weights)

    def placed(self, value: np.ndarray | Buffer) -> Buffer:
        """An input."""
        return placed(value, self.device) if isinstance(value, np.ndarray) else value


class TappedGraphs:
    """The graphs of an artifact with all their values as outputs.

    Args:
        files: model.py, kernels/*.mojo and weights.safetensors, held.
        spec: the network.
        target: what the graphs are compiled for.
        say: told what is compiling.
        gpu: number of the GPU, if the target is one.
    """

    build = "tapped"

    def __init__(
        self,
        files: Mapping[str, HeldFile],
        spec: GraphSpec,
        target: Target,
        say: Callable[[str], None],
        gpu: int | None = None,
    ):
        self.dims = spec.dims
        self._paths = graph_taps(spec)
        self._compiled_for = Source.of(files), target, say
        self._on = on = _Device(gpu, files["weights.safetensors"])
        compiled = self._compile(self._paths)
        self._graphs = {name: load_graph(on.session, mef, on.weights) for name, mef in compiled.items()}

    @cached_property
    def _features(self) -> FeaturesGraph:
        """Needed where nothing that ships can be run."""
        mef = self._compile({"features": ()})["features"]
        return FeaturesGraph(self._on.session, mef, self.dims, self._on.device)

    def _compile(self, paths: Mapping[str, Sequence[str]]) -> dict[str, HeldFile]:
        source, target, say = self._compiled_for
        return compile_tapped(source, paths, target, say)

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """As of `Graphs`."""
        return self._features.log_mel(samples)

    def encode(self, mel: np.ndarray) -> tuple[Buffer, Values]:
        """As of `Graphs`."""
        states, *values = self.execute("encoder", mel[None])
        return states, _by_path(self._paths["encoder"], values)

    def states(self, values: np.ndarray) -> Buffer:
        """As of `Graphs`."""
        return self._on.placed(values)

    def decoder(self, slots: int, audios: int) -> Decoder:
        """As of `Graphs`."""
        pools = empty_pools(self._graphs["step"], slots, audios, self._on.device)
        return _TappedDecoder(self.execute, self._paths, pools)

    def execute(self, name: str, *inputs: np.ndarray | Buffer) -> list[Buffer]:
        """Outputs of a graph: its own, then its values."""
        return self._graphs[name].execute(*map(self._on.placed, inputs))


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

    def most_probable(self, logits: np.ndarray) -> list[int]:
        return logits.argmax(-1).tolist()


class BlockGraphs:
    """One block of encoder and decoder by itself, initialised with the weights of any layer.

    Args:
        files: model.py, kernels/*.mojo and weights.safetensors, held.
        spec: the network.
        target: what the graphs are compiled for.
        say: told what is compiling.
        gpu: number of the GPU, if the target is one.
    """

    def __init__(
        self,
        files: Mapping[str, HeldFile],
        spec: GraphSpec,
        target: Target,
        say: Callable[[str], None],
        gpu: int | None = None,
    ):
        self._dims = spec.dims
        sides = ("encoder", "decoder")
        self._paths = {f"{side}_block": list(block_taps(spec, side)) for side in sides}
        self._compiled = compile_tapped(Source.of(files), {"audio": (), **self._paths}, target, say)
        self._on = _Device(gpu, files["weights.safetensors"])
        self._audio = load_graph(self._on.session, self._compiled["audio"], self._on.weights)

    def encoder_block(self, layer: int, x: np.ndarray) -> Values:
        """Values of encoder.blocks.`layer` on float32 [1, n_audio_ctx, n_audio_state]."""
        return self._run("encoder", layer, lambda block: [x])

    def decoder_block(self, layer: int, x: np.ndarray, states: np.ndarray) -> Values:
        """Values of decoder.blocks.`layer` on float32 [1, length, n_text_state] from position 0, given audio states."""

        def inputs(block: Model) -> list[np.ndarray | Buffer]:
            rows = Rows(np.zeros(1, np.int64), np.zeros((1, self._dims.n_text_ctx), np.int32), np.zeros(1, np.int64))
            pools = empty_pools(block, 1, 1, self._on.device)
            self._audio.execute(self._on.placed(states), self._on.placed(rows.audios), *pools[2:])
            # a block by itself reads layer 0 of what all layers hear
            for pool in pools[2:]:
                n_bytes = math.prod(pool.shape[2:]) * pool.dtype.size_in_bytes
                layers = pool.view(DType.uint8, (pool.shape[1], n_bytes))
                heard = layers.to_numpy()
                heard[0] = heard[layer]
                if self._on.device is not None:  # where `heard` is a copy
                    layers.inplace_copy_from(Buffer.from_numpy(heard))
            return [x, *vars(rows).values(), *pools]

        return self._run("decoder", layer, inputs)

    def _run(self, side: str, layer: int, inputs: Callable[[Model], list[np.ndarray | Buffer]]) -> Values:
        first, block = f"{side}.blocks.0", f"{side}.blocks.{layer}"
        weights = {
            first + name.removeprefix(block): array
            for name, array in self._on.weights.items()
            if name.startswith(f"{block}.")
        }
        name = f"{side}_block"
        model = load_graph(self._on.session, self._compiled[name], weights)
        _, *values = model.execute(*map(self._on.placed, inputs(model)))
        return {block + path.removeprefix(first): value for path, value in _by_path(self._paths[name], values).items()}


def _by_path(paths: Sequence[str], outputs: Sequence[Buffer]) -> Values:
    return {path: output.to_numpy() for path, output in zip(paths, outputs, strict=True)}
