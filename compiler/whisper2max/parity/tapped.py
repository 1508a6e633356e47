"""Compiled graphs that give every value on the way, for looking into; those that ship give their result alone.

Extra outputs can change what the compiler fuses. So these graphs locate an error, and the shipped ones are
judged besides. They are compiled once per dimensions and dtype and kept in the user's cache.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from max.driver import Buffer

from whisper2max.build.compiler import Source, compile_tapped
from whisper2max.build.target import Target
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.held import HeldFile
from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.taps import block_taps, graph_taps
from whisper2max.runtime.graphs import load_graph
from whisper2max.runtime.threads import shared_session
from whisper2max.runtime.weights import map_weights

Values = dict[str, np.ndarray]


class TappedGraphs:
    """Encoder, prompt and step graphs of one artifact with all their values as outputs.

    Values are float32 [batch, rows, width] by path; logits of the prompt are those of the picked positions.

    Args:
        files: model.py, kernels/*.mojo and weights.safetensors, held.
        spec: the network.
        target: what the graphs are compiled for.
        say: told what is compiling.
    """

    def __init__(self, files: Mapping[str, HeldFile], spec: GraphSpec, target: Target, say: Callable[[str], None]):
        self._dims = spec.dims
        self._paths = graph_taps(spec)
        # MAX reads the mapped arrays in place, so they live as long as the graphs
        self._weights = map_weights(files["weights.safetensors"])
        session, compiled = shared_session(), compile_tapped(Source.of(files), self._paths, target, say)
        self._graphs = {name: load_graph(session, mef, self._weights) for name, mef in compiled.items()}

    def encode(self, mel: np.ndarray) -> tuple[Buffer, Values]:
        """A handle to the audio states of float32 [1, n_mels, 2 * n_audio_ctx], and the values on the way."""
        outputs = self._graphs["encoder"].execute(Buffer.from_numpy(np.ascontiguousarray(mel)))
        return outputs[0], self._values("encoder", outputs)

    def prompt(self, states: Buffer, tokens: np.ndarray, picked: np.ndarray) -> tuple[list[Buffer], Values]:
        """Decode int64 [1, length] from position 0, with logits of the `picked` positions int64 [1, n].

        Returns:
            The caches and cross-attention projections that a step needs, and the values.
        """
        caches = empty_caches(self._dims)
        inputs = [Buffer.from_numpy(np.ascontiguousarray(each)) for each in (tokens, picked)]
        outputs = self._graphs["prompt"].execute(*inputs, states, *caches)
        cross = outputs[1 : 1 + 2 * self._dims.n_text_layer]
        return [*caches, *cross], self._values("prompt", outputs)

    def step_after(self, states: Buffer, tokens: Sequence[int], position: int) -> Values:
        """Values of tokens[position], [1, 1, width] each, with those before it decoded as a prompt."""
        before = np.array([tokens[:position]], np.int64)
        state, _ = self.prompt(states, before, np.zeros((1, 1), np.int64))
        inputs = [Buffer.from_numpy(np.array([value], np.int64)) for value in (tokens[position], position)]
        values = self._values("step", self._graphs["step"].execute(*inputs, *state))
        return {path: value.reshape(1, 1, -1) for path, value in values.items()}

    def _values(self, name: str, outputs: list[Buffer]) -> Values:
        return _by_path(self._paths[name], outputs)


class BlockGraphs:
    """One block of encoder and decoder by itself, initialised with the weights of any layer.

    Args:
        files: model.py, kernels/*.mojo and weights.safetensors, held.
        spec: the network.
        target: what the graphs are compiled for.
        say: told what is compiling.
    """

    def __init__(self, files: Mapping[str, HeldFile], spec: GraphSpec, target: Target, say: Callable[[str], None]):
        self._dims = spec.dims
        self._weights = map_weights(files["weights.safetensors"])
        sides = ("encoder", "decoder")
        self._paths = {f"{side}_block": [tap.path for tap in block_taps(spec, side)] for side in sides}
        self._compiled = compile_tapped(Source.of(files), self._paths, target, say)

    def encoder_block(self, layer: int, x: np.ndarray) -> Values:
        """Values of encoder.blocks.`layer` on float32 [1, n_audio_ctx, n_audio_state]."""
        return self._run("encoder", layer, Buffer.from_numpy(np.ascontiguousarray(x)))

    def decoder_block(self, layer: int, x: np.ndarray, states: np.ndarray) -> Values:
        """Values of decoder.blocks.`layer` on float32 [1, length, n_text_state] from position 0, given audio states."""
        inputs = [np.ascontiguousarray(x), np.zeros(1, np.int64), np.ascontiguousarray(states)]
        buffers = [Buffer.from_numpy(each) for each in inputs]
        return self._run("decoder", layer, *buffers, *empty_caches(self._dims))

    def _run(self, side: str, layer: int, *inputs: Buffer) -> Values:
        first, block = f"{side}.blocks.0", f"{side}.blocks.{layer}"
        weights = {
            first + name.removeprefix(block): array
            for name, array in self._weights.items()
            if name.startswith(f"{block}.")
        }
        name = f"{side}_block"
        model = load_graph(shared_session(), self._compiled[name], weights)
        values = _by_path(self._paths[name], model.execute(*inputs))
        return {block + path.removeprefix(first): value for path, value in values.items()}


def empty_caches(dims: ModelDimensions) -> list[Buffer]:
    """Keys and values of self-attention, float32 [n_text_layer, 1, n_text_ctx, n_text_state] each."""
    shape = (dims.n_text_layer, 1, dims.n_text_ctx, dims.n_text_state)
    return [Buffer.from_numpy(np.zeros(shape, np.float32)) for _ in range(2)]


def _by_path(paths: Sequence[str], outputs: list[Buffer]) -> Values:
    own = len(outputs) - len(paths)
    return {path: output.to_numpy() for path, output in zip(paths, outputs[own:], strict=True)}
