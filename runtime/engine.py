"""The compiled graphs of an artifact, behind numpy arrays, on a CPU or a GPU.

On a GPU weights, pools, audio states and the logits of a step stay there; tokens, where rows look and what may follow
go there, and the chosen tokens come back.

One engine serves several threads: graphs and weights are shared and read-only, and every `Session` owns its pools. A
lock lets one graph run at a time, because each already uses every thread of the pool; and on a GPU one thread at a time
ask for anything, because what another asks while a step is recorded would become part of the recording.
"""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from max.driver import Accelerator, Buffer
from max.engine import Model

from whisper2max.artifact.manifest import GRAPHS_OF
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import UsageError
from whisper2max.core.held import HeldFile
from whisper2max.runtime.choice import Allowed, Choice, choose_each
from whisper2max.runtime.choice_on_device import Masks, answered
from whisper2max.runtime.features_graph import FeaturesGraph
from whisper2max.runtime.graphs import empty_pools, load_graph, placed, require_signatures
from whisper2max.runtime.protocol import Rows
from whisper2max.runtime.replay import Replayed
from whisper2max.runtime.threads import gpu_session, keep_in_children, require_same_process, shared_session, was_forked
from whisper2max.runtime.weights import copied_to, map_weights


class Engine:
    """Features, encoder, audio, extend and step graphs with their weights.

    Args:
        files: the MEFs and weights.safetensors, held; whoever opened the artifact compared their hashes.
        dims: sizes of the model.
        cpu_threads: threads for the graphs; 0 takes as many as CPUs, or as the quota of its control groups allows.
        gpu: number of the GPU that the graphs were compiled for; None for the CPU.

    Raises:
        ArtifactError: a graph cannot be loaded, is another one or one of other dimensions; or a file was changed
            since its hash was taken.
    """

    def __init__(
        self, files: Mapping[str, HeldFile], dims: ModelDimensions, cpu_threads: int = 0, gpu: int | None = None
    ):
        self.dims = dims
        self.device = None if gpu is None else Accelerator(gpu)
        session = shared_session(cpu_threads) if self.device is None else gpu_session(self.device, cpu_threads)
        self._weights: Mapping[str, np.ndarray | Buffer] = map_weights(files["weights.safetensors"])
        if self.device is not None:
            self._weights = copied_to(self.device, self._weights)
        self._lock = threading.RLock()
        keep_in_children(self)
        self._features = FeaturesGraph(session, files["features.mef"], dims, self.device)
        names = [name for name in GRAPHS_OF["max" if "choose.mef" in files else "cpu"] if name != "features"]
        graphs = {name: load_graph(session, files[f"{name}.mef"], self._weights) for name in names}
        require_signatures({"features": self._features.model, **graphs}, dims)
        self._graphs: dict[str, Model] = graphs
        for name in ("weights.safetensors", "features.mef", *(f"{name}.mef" for name in names)):
            files[name].require_unchanged()

    @property
    def chooses(self) -> bool:
        """Whether the choice of a token is a graph, and logits stay where it reads them."""
        return "choose" in self._graphs

    def close(self) -> None:
        """Let go of graphs and weights. What is running finishes; every later call raises UsageError."""
        if was_forked():
            return  # they are the other process's
        with self._lock:
            self._graphs, self._weights = {}, {}

    def require_usable(self) -> None:
        """Raise UsageError if the engine was closed, or belongs to a process that this one was forked from."""
        require_same_process()
        if not self._graphs:
            raise UsageError("the model was closed; load it again")

    def features(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        """Log-mel powers of samples from anywhere in a recording; as `FeaturesGraph.powers`."""
        with self._lock:
            self.require_usable()
            return self._features.powers(samples, padding)

    def log_mel(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        """The log-mel spectrogram of a whole recording; as `FeaturesGraph.log_mel`."""
        with self._lock:
            self.require_usable()
            return self._features.log_mel(samples, padding)

    def encode(self, mel: np.ndarray) -> Buffer:
        """Audio states of log-mel windows.

        Args:
            mel: float32 [windows, n_mels, 2 * n_audio_ctx].

        Returns:
            A handle to float32 [windows, n_audio_ctx, n_audio_state]; `to_numpy` reads it.
        """
        wanted = (self.dims.n_mels, self.dims.n_frames)
        if mel.ndim != 3 or mel.shape[1:] != wanted or mel.dtype != np.float32:
            raise UsageError(
                f"mel is {mel.dtype} {list(mel.shape)}, expected float32 [windows, {wanted[0]}, {wanted[1]}]"
            )
        return self.execute("encoder", mel)[0]

    def to_numpy(self, states: Buffer) -> np.ndarray:
        """The values behind a handle that `encode` gave: a copy, in memory that needs nothing of MAX to be freed."""
        with self._lock:
            return states.to_numpy().copy()

    def to_states(self, states: np.ndarray) -> Buffer:
        """A handle for audio states float32 [windows, n_audio_ctx, n_audio_state] that came from elsewhere."""
        wanted = (self.dims.n_audio_ctx, self.dims.n_audio_state)
        if states.ndim != 3 or states.shape[1:] != wanted or states.dtype != np.float32:
            raise UsageError(
                f"states are {states.dtype} {list(states.shape)}, expected float32 [windows, {wanted[0]}, {wanted[1]}]"
            )
        self.require_usable()
        return self.placed(states)

    def session(self, slots: int, audios: int) -> "Session":
        """Open pools of `slots` caches of self-attention and of `audios` windows that are heard."""
        if slots < 1 or audios < 1:
            raise UsageError(f"a session needs 1 or more slots and audios, got {slots} and {audios}")
        with self._lock:
            self.require_usable()
            return Session(self, empty_pools(self._graphs["step"], slots, audios, self.device))

    def execute(self, name: str, *inputs: np.ndarray | Buffer) -> list[Buffer]:
        """Run a graph by its name, as soon as no other one runs."""
        with self._lock:
            self.require_usable()
            buffers = [self.placed(value) if isinstance(value, np.ndarray) else value for value in inputs]
            return self._graphs[name].execute(*buffers)

    def replayed(self, name: str, fixed: Sequence[Buffer]) -> Replayed | None:
        """A graph with its last inputs, to be recorded on a GPU; None on the CPU, where nothing is."""
        return None if self.device is None else Replayed(self._graphs[name], fixed, self.placed)

    def step(self, replayed: Replayed | None, *inputs: np.ndarray | Buffer) -> list[Buffer]:
        """Run the graph `step`, as it was recorded where it was."""
        if replayed is None:
            return self.execute("step", *inputs)
        with self._lock:
            self.require_usable()
            return replayed(*(each for each in inputs if isinstance(each, np.ndarray)))

    def placed(self, value: np.ndarray) -> Buffer:
        """An array where the graphs run: the very memory on the CPU, a copy on a GPU."""
        with self._lock:
            return placed(value, self.device)


class Session:
    """Pools of slots and of audios, as `protocol.Session`; used by one thread.

    Attributes:
        pools: keys and values of self-attention, then of the audios.
    """

    def __init__(self, engine: Engine, pools: list[Buffer]):
        self.pools = pools
        self._engine = engine
        self._n_slots, self._n_audios = pools[0].shape[0], pools[2].shape[0]
        self._masks, self._masks_there = Masks(engine.dims.n_vocab), None
        self._replayed = engine.replayed("step", pools)
        keep_in_children(self)

    def hear(self, mel: np.ndarray, audio: int) -> None:
        """Encode a window float32 [n_mels, 2 * n_audio_ctx] and keep what the decoder hears of it in place `audio`."""
        self.project(self._engine.encode(mel[None]), [audio])

    def project(self, states: Buffer, audios: list[int]) -> None:
        """Keep what the decoder hears of audio states, a handle from `encode`, in these places, one for each window."""
        places = np.array(audios, np.int64)
        if places.shape != (states.shape[0],):
            raise UsageError(f"{len(audios)} places for {states.shape[0]} windows")
        _require_range("audio", places, np.int64, self._n_audios)
        self._engine.execute("audio", states, places, *self.pools[2:])

    def extend(self, tokens: np.ndarray, rows: Rows, picked: np.ndarray) -> np.ndarray:
        """Decode several tokens of every row.

        Args:
            tokens: int64 [rows, length], padded on the right with any id.
            rows: where they look.
            picked: int64 [rows, n], the tokens whose logits are wanted.

        Returns:
            Logits float32 [rows, n, n_vocab], the caller's own.
        """
        if tokens.ndim != 2 or picked.ndim != 2 or tokens.shape[1] < 1 or picked.shape[0] != tokens.shape[0]:
            raise UsageError(f"tokens are {list(tokens.shape)} and picked {list(picked.shape)}, expected the same rows")
        _require_range("picked token", picked, np.int64, tokens.shape[1])
        inputs = self._rows(tokens, rows, tokens.shape[1])
        return self._engine.to_numpy(self._engine.execute("extend", tokens, picked, *inputs)[0])

    def step(self, tokens: np.ndarray, rows: Rows) -> np.ndarray | Buffer:
        """Decode one token of every row: int64 [rows] -> logits float32 [rows, n_vocab].

        Returns:
            An array, the caller's own; or, where `choose` is a graph, a handle to them, which `Engine.to_numpy` reads.
        """
        if tokens.ndim != 1:
            raise UsageError(f"tokens of a step are {list(tokens.shape)}, expected one for each row")
        (logits,) = self._engine.step(self._replayed, tokens, *self._rows(tokens, rows, 1))
        return logits if self._engine.chooses else self._engine.to_numpy(logits)

    def choose(self, logits: np.ndarray | Buffer, allowed: Sequence[Allowed]) -> list[Choice]:
        """The most probable token of each row of logits float32 [rows, n_vocab], of `step` or an array, overwritten."""
        if isinstance(logits, np.ndarray):
            return choose_each(logits, allowed)
        asked = self._masks.asked(allowed)
        if self._masks_there is None or self._masks_there.shape[0] != len(self._masks.masks):
            self._masks_there = self._engine.placed(self._masks.masks)
        (answers,) = self._engine.execute("choose", logits, asked, self._masks_there)
        return answered(self._engine.to_numpy(answers))

    def _rows(self, tokens: np.ndarray, rows: Rows, length: int) -> tuple[np.ndarray | Buffer, ...]:
        """The inputs that say where rows look. On a CPU the kernels require the slots of positions that are read."""
        n, dims = len(tokens), self._engine.dims
        shapes = rows.positions.shape, rows.slots.shape, rows.audios.shape
        if n < 1 or shapes != ((n,), (n, dims.n_text_ctx), (n,)) or rows.slots.dtype != np.int32:
            raise UsageError(f"{n} rows of tokens, but positions, slots and audios are {', '.join(map(str, shapes))}")
        _require_range("token", tokens, np.int64, dims.n_vocab)
        _require_range("position", rows.positions, np.int64, dims.n_text_ctx - length + 1)
        _require_range("audio", rows.audios, np.int64, self._n_audios)
        if self._engine.device is not None:
            read = np.arange(dims.n_text_ctx) < (rows.positions + length)[:, None]
            _require_range("slot", rows.slots[read], np.int32, self._n_slots)
        return rows.positions, rows.slots, rows.audios, *self.pools


def _require_range(what: str, values: np.ndarray, dtype: type, end: int) -> None:
    if values.dtype != dtype or values.min() < 0 or values.max() >= end:
        raise UsageError(
            f"every {what} must be {np.dtype(dtype)} from 0 to {end - 1}, got {values.dtype} {values.min()} to "
            f"{values.max()}"
        )
