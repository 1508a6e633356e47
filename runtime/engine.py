"""The four compiled graphs of an artifact, behind numpy arrays.

One engine serves several threads: graphs and weights are shared and read-only, and every prompt
starts a `Session` that owns its caches. A lock lets one graph run at a time, because each already
uses every thread of the pool.
"""

import math
import mmap
import threading
from collections.abc import Mapping

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.engine import Model

from whisper2max.artifact.manifest import GRAPHS
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import UsageError
from whisper2max.core.held import HeldFile
from whisper2max.runtime.features import SILENCE, mel_filters, scaled
from whisper2max.runtime.graphs import load_graph, require_signatures
from whisper2max.runtime.threads import keep_in_children, require_same_process, shared_session, was_forked
from whisper2max.runtime.weights import map_weights

# The prompt graph projects the audio for all layers before it packs any: 37 MB for each window of base.
AUDIOS_AT_A_TIME = 2


class Engine:
    """Features, encoder, prompt and step graphs with their weights.

    Args:
        files: the four MEFs and weights.safetensors, held; whoever opened the artifact compared their hashes.
        dims: sizes of the model.
        cpu_threads: threads for the graphs; 0 takes all cores.

    Raises:
        ArtifactError: a graph cannot be loaded, is another one or one of other dimensions; or a file was changed
            since its hash was taken.
    """

    def __init__(self, files: Mapping[str, HeldFile], dims: ModelDimensions, cpu_threads: int = 0):
        self.dims = dims
        self._session = shared_session(cpu_threads)
        self._weights = map_weights(files["weights.safetensors"])
        self._lock = threading.Lock()
        self._closed = False
        keep_in_children(self)
        graphs = {name: load_graph(self._session, files[f"{name}.mef"], self._weights) for name in GRAPHS}
        require_signatures(graphs, dims)
        self._features, self._encoder, self._prompt, self._step = graphs.values()
        for name in ("weights.safetensors", *(f"{name}.mef" for name in GRAPHS)):
            files[name].require_unchanged()

    def close(self) -> None:
        """Let go of graphs and weights. What is running finishes; every later call raises UsageError."""
        if was_forked():
            return  # they are the other process's
        with self._lock:
            self._closed = True
            self._features = self._encoder = self._prompt = self._step = None
            self._weights = {}

    def require_usable(self) -> None:
        """Raise UsageError if the engine was closed, or belongs to a process that this one was forked from."""
        require_same_process()
        if self._closed:
            raise UsageError("the model was closed; load it again")

    def log_mel_powers(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        """Log-mel powers of samples from anywhere in a recording, within 4e-6 of `features.log_mel_powers`.

        Both ends are taken for those of the recording: the first and last two frames are others in the midst of it.

        Args:
            samples: float32 [samples], mono, 16 kHz.
            padding: zero samples to add at the end.

        Returns:
            float32 [n_mels, (samples + padding) // 160]: a frame each 10 ms, centred on its time.
        """
        if samples.ndim != 1 or samples.dtype != np.float32 or padding < 0:
            raise UsageError(
                f"samples are {samples.dtype} {list(samples.shape)} with {padding} zeros after them, expected float32 "
                "[samples] and 0 zeros or more"
            )
        inputs = samples, mel_filters(self.dims.n_mels), np.array(padding, np.int64)
        return self.to_numpy(self._execute(self._features, *inputs)[0])

    def log_mel(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        """The log-mel spectrogram of a whole recording, within 1e-6 of `features.log_mel`; as `log_mel_powers`."""
        powers = self.log_mel_powers(samples, padding)
        return scaled(powers, powers.max(initial=SILENCE))

    def encode(self, mel: np.ndarray) -> Buffer:
        """Audio states of log-mel windows.

        Args:
            mel: float32 [batch, n_mels, 2 * n_audio_ctx].

        Returns:
            A handle to float32 [batch, n_audio_ctx, n_audio_state]; `to_numpy` reads it.
        """
        wanted = (self.dims.n_mels, self.dims.n_frames)
        if mel.ndim != 3 or mel.shape[1:] != wanted or mel.dtype != np.float32:
            raise UsageError(
                f"mel is {mel.dtype} {list(mel.shape)}, expected float32 [batch, {wanted[0]}, {wanted[1]}]"
            )
        return self._execute(self._encoder, mel)[0]

    def to_numpy(self, states: Buffer) -> np.ndarray:
        """The values behind a handle that `encode` gave: a copy, in memory that needs nothing of MAX to be freed."""
        return states.to_numpy().copy()

    def to_states(self, states: np.ndarray) -> Buffer:
        """A handle for audio states float32 [batch, n_audio_ctx, n_audio_state] that came from elsewhere."""
        wanted = (self.dims.n_audio_ctx, self.dims.n_audio_state)
        if states.ndim != 3 or states.shape[1:] != wanted or states.dtype != np.float32:
            raise UsageError(
                f"states are {states.dtype} {list(states.shape)}, expected float32 [batch, {wanted[0]}, {wanted[1]}]"
            )
        self.require_usable()
        return Buffer.from_numpy(np.ascontiguousarray(states))

    def prompt(self, states: Buffer, tokens: np.ndarray, picked: np.ndarray) -> tuple[np.ndarray, "Session"]:
        """Decode prompts from position 0.

        Args:
            states: handle from `encode`, [audios, ...]; with fewer audios than rows, batch / audios neighbouring
                rows hear the same audio, which is read once for all of them.
            tokens: int64 [batch, length], rows padded on the right with any id.
            picked: int64 [batch, n], positions in each row whose logits are wanted.

        Returns:
            Logits float32 [batch, n, n_vocab], the caller's own, and the session to continue with.
        """
        batch = tokens.shape[0]
        if tokens.ndim != 2 or batch % states.shape[0] or picked.ndim != 2 or picked.shape[0] != batch:
            raise UsageError(
                f"{states.shape[0]} rows of audio states, but tokens are {list(tokens.shape)} and picked "
                f"{list(picked.shape)}"
            )
        if not 0 < tokens.shape[1] <= self.dims.n_text_ctx:
            raise UsageError(f"a prompt has {tokens.shape[1]} tokens, expected 1 to {self.dims.n_text_ctx}")
        _require_range("token", tokens, self.dims.n_vocab)
        _require_range("picked position", picked, tokens.shape[1])
        self.require_usable()
        n_audios, length = states.shape[0], tokens.shape[1]
        if n_audios <= AUDIOS_AT_A_TIME:
            caches = [np.zeros(self._cache_shape(batch), np.float32) for _ in range(2)]
            logits, *audio = self._execute(self._prompt, tokens, picked, states, *map(Buffer.from_numpy, caches))
            return self.to_numpy(logits), Session(self, batch, caches, audio)
        caches = self._sparse_caches(batch)
        parts, packed = [], []
        for first in range(0, n_audios, AUDIOS_AT_A_TIME):
            heard = slice(first, min(first + AUDIOS_AT_A_TIME, n_audios))
            rows = slice(heard.start * batch // n_audios, heard.stop * batch // n_audios)
            filled = self._sparse_caches(rows.stop - rows.start)
            inputs = tokens[rows], picked[rows], states[heard, :, :], *map(Buffer.from_numpy, filled)
            logits, *audio = self._execute(self._prompt, *inputs)
            parts.append(logits.to_numpy())
            for cache, of_these in zip(caches, filled, strict=True):
                cache[:, rows, :length] = of_these[:, :, :length]
            # in numpy: a copy from buffer to buffer is not over when the call returns
            packed = packed or [np.empty((n_audios, _row_bytes(each)), np.uint8) for each in audio]
            for rows_of_all, part in zip(packed, audio, strict=True):
                rows_of_all[heard] = part.view(DType.uint8, (part.shape[0], _row_bytes(part))).to_numpy()
        audio = [
            Buffer.from_numpy(rows_of_all).view(part.dtype, (n_audios, *part.shape[1:]))
            for rows_of_all, part in zip(packed, audio, strict=True)
        ]
        return np.concatenate(parts), Session(self, batch, caches, audio)

    def _cache_shape(self, rows: int) -> tuple[int, int, int, int]:
        return self.dims.n_text_layer, rows, self.dims.n_text_ctx, self.dims.n_text_state

    def _sparse_caches(self, rows: int) -> list[np.ndarray]:
        """Zeros for keys and values of self-attention, whose memory is taken page by page as positions are written.

        numpy asks for huge pages. A step of one row reads them a seventh faster, but every row and layer takes whole
        ones with its first position: 11 MB a row of base, of which a window of speech fills a fifth.
        """
        shape = self._cache_shape(rows)
        return [np.frombuffer(mmap.mmap(-1, 4 * math.prod(shape)), np.float32).reshape(shape) for _ in range(2)]

    def _execute(self, model: Model | None, *inputs: np.ndarray | Buffer) -> list[Buffer]:
        self.require_usable()
        buffers = [
            Buffer.from_numpy(np.asarray(value, order="C")) if isinstance(value, np.ndarray) else value
            for value in inputs
        ]
        with self._lock:
            self.require_usable()
            return model.execute(*buffers)


class Session:
    """Caches of one batch of sequences, filled by a prompt and extended by steps; used by one thread.

    Attributes:
        audio: packed cross-attention keys and values of every layer.
    """

    def __init__(self, engine: Engine, batch: int, caches: list[np.ndarray], audio: list[Buffer]):
        self.audio = audio
        self._engine = engine
        self._batch = batch
        self._state = (*map(Buffer.from_numpy, caches), *audio)
        keep_in_children(self)

    def step(self, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Decode one more token in every row.

        Args:
            tokens: int64 [batch].
            positions: int64 [batch], where each row's token goes, below n_text_ctx.

        Returns:
            Logits float32 [batch, n_vocab], the caller's own.
        """
        if tokens.shape != (self._batch,) or positions.shape != (self._batch,):
            raise UsageError(f"a step of {self._batch} rows got {len(tokens)} tokens and {len(positions)} positions")
        dims = self._engine.dims
        _require_range("token", tokens, dims.n_vocab)
        _require_range("position", positions, dims.n_text_ctx)
        return self._engine.to_numpy(self._engine._execute(self._engine._step, tokens, positions, *self._state)[0])


def _row_bytes(buffer: Buffer) -> int:
    return math.prod(buffer.shape[1:]) * buffer.dtype.size_in_bytes


def _require_range(what: str, values: np.ndarray, end: int) -> None:
    if values.dtype != np.int64 or values.min() < 0 or values.max() >= end:
        raise UsageError(f"every {what} must be an int64 from 0 to {end - 1}, got {values.dtype} up to {values.max()}")
