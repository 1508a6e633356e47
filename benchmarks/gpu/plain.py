"""Whisper in plain PyTorch, on the weights of an artifact: a reference in float32, a contender in 16 bits.

Written for speed: query, key and value are one product, attention is PyTorch's fused one, caches are written in place,
and a whole step can be a CUDA graph. Names and layouts of weights are the artifact's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from gpu.ours import POSITION, PROMPT
from gpu.race import Contender, Makers
from whisper2max.core.dims import ModelDimensions

Heard = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of every layer, each [windows, heads, frames, head_dim]."""


class Plain:
    """The network.

    Args:
        weights: by name, as `stored` gives them.
        dims: sizes of the model.
        dtype: of weights and values.
        where: "cuda" or "cpu".
    """

    def __init__(self, weights: dict[str, torch.Tensor], dims: ModelDimensions, dtype: torch.dtype, where: str):
        self.dims, self.dtype, self.where = dims, dtype, where
        self.w = {name: weight.to(where, dtype) for name, weight in weights.items()}

    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        """[windows, n_mels, 3000] -> [windows, 1500, n_audio_state]."""
        x = F.gelu(F.conv1d(mel, self.w["encoder.conv1.weight"], self.w["encoder.conv1.bias"], padding=1))
        x = F.gelu(F.conv1d(x, self.w["encoder.conv2.weight"], self.w["encoder.conv2.bias"], stride=2, padding=1))
        x = x.transpose(1, 2) + self.w["encoder.positional_embedding"]
        for layer in range(self.dims.n_audio_layer):
            name = f"encoder.blocks.{layer}"
            q, k, v = self.linear(self.norm(x, f"{name}.attn_ln"), f"{name}.attn.query_key_value").chunk(3, -1)
            y = F.scaled_dot_product_attention(*(heads(each, self.dims.n_audio_head) for each in (q, k, v)))
            x = x + self.linear(merged(y), f"{name}.attn.out")
            x = x + self.mlp(x, name)
        return self.norm(x, "encoder.ln_post")

    def hear(self, states: torch.Tensor) -> Heard:
        """What the decoder hears of audio states."""
        found = []
        for layer in range(self.dims.n_text_layer):
            k, v = self.linear(states, f"decoder.blocks.{layer}.cross_attn.key_value").chunk(2, -1)
            found.append((heads(k, self.dims.n_text_head), heads(v, self.dims.n_text_head)))
        return found

    def caches(self, n_rows: int) -> torch.Tensor:
        """Keys and values of self-attention, [2, layers, rows, n_text_ctx, n_text_state]."""
        shape = 2, self.dims.n_text_layer, n_rows, self.dims.n_text_ctx, self.dims.n_text_state
        return torch.zeros(shape, dtype=self.dtype, device=self.where)

    def decode(
        self, tokens: torch.Tensor, positions: torch.Tensor, caches: torch.Tensor, heard: Heard, picked: torch.Tensor
    ) -> torch.Tensor:
        """Logits float32 [rows, n, n_vocab] of some tokens.

        Args:
            tokens: int64 [rows, length].
            positions: int64 [rows, length], where they go.
            caches: are written there.
            heard: a window of each row.
            picked: int64 [rows, n], the tokens whose logits are wanted.
        """
        x = self.w["decoder.token_embedding.weight"][tokens] + self.w["decoder.positional_embedding"][positions]
        rows = torch.arange(len(tokens), device=self.where)[:, None]
        seen = torch.arange(self.dims.n_text_ctx, device=self.where) <= positions[:, None, :, None]
        n_head = self.dims.n_text_head
        for layer, (keys, values) in enumerate(heard):
            name = f"decoder.blocks.{layer}"
            q, k, v = self.linear(self.norm(x, f"{name}.attn_ln"), f"{name}.attn.query_key_value").chunk(3, -1)
            cached_keys, cached_values = caches[0, layer], caches[1, layer]
            cached_keys[rows, positions], cached_values[rows, positions] = k, v
            kept = heads(cached_keys, n_head), heads(cached_values, n_head)
            y = F.scaled_dot_product_attention(heads(q, n_head), *kept, attn_mask=seen)
            x = x + self.linear(merged(y), f"{name}.attn.out")
            q = self.linear(self.norm(x, f"{name}.cross_attn_ln"), f"{name}.cross_attn.query")
            y = F.scaled_dot_product_attention(heads(q, n_head), keys, values)
            x = x + self.linear(merged(y), f"{name}.cross_attn.out")
            x = x + self.mlp(x, name)
        x = self.norm(x, "decoder.ln")[rows, picked]
        return (x @ self.w["decoder.token_embedding.weight"].T).float()

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-5)

    def mlp(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self.linear(F.gelu(self.linear(self.norm(x, f"{name}.mlp_ln"), f"{name}.mlp.0")), f"{name}.mlp.2")


class PlainContender:
    """The network as a contender, eager and as a CUDA graph.

    Args:
        network: in 16 bits.
        prompt: ids of four tokens.
        suppressed: ids that are never chosen.
    """

    def __init__(self, network: Plain, prompt: Sequence[int], suppressed: np.ndarray):
        self.network, self.where = network, network.where
        self.name = f"torch {str(network.dtype).removeprefix('torch.')}"
        self._prompt = prompt
        self._bias = torch.zeros(network.dims.n_vocab)
        self._bias[torch.from_numpy(suppressed)] = -torch.inf
        self._bias = self._bias.to(self.where)

    def encoder(self, mel: np.ndarray) -> Makers:
        def prepared():
            x = self._mel(mel)
            return self._contender(lambda: self.network.encode(x))

        return both(self.name, prepared, self.where)

    def audio(self, mel: np.ndarray) -> Makers:
        def prepared():
            states = self.network.encode(self._mel(mel))
            return self._contender(lambda: [each.contiguous() for pair in self.network.hear(states) for each in pair])

        return both(self.name, prepared, self.where)

    def extend(self, mel: np.ndarray) -> Makers:
        def prepared():
            tokens, positions = self._tokens(len(mel), PROMPT, 0)
            picked = torch.tensor([[0, PROMPT - 1]] * len(mel), device=self.where)
            caches, heard = self.network.caches(len(mel)), self._heard(mel)
            return self._contender(lambda: self.network.decode(tokens, positions, caches, heard, picked))

        return both(self.name, prepared, self.where)

    def step(self, mel: np.ndarray) -> Makers:
        return both(self.name, lambda: self._contender(self._stepping(mel)[0]), self.where)

    def token(self, mel: np.ndarray) -> Makers:
        """A step whose tokens come from the host, and whose choice goes there."""
        makers = {}
        for name, recorded in variants(self.name, self.where).items():

            def maker(recorded: bool = recorded) -> Contender:
                call, there, here = self._stepping(mel)
                out = graphed(call) if recorded else call

                def token() -> list[int]:
                    there.copy_(here)
                    return out().tolist()

                return self._contender(token)

            makers[name] = maker
        return makers

    def _stepping(self, mel: np.ndarray) -> tuple[Callable[[], torch.Tensor], torch.Tensor, torch.Tensor]:
        """A step and the choice, the tokens that it takes, and as many on the host."""
        tokens, positions = self._tokens(len(mel), 1, POSITION)
        picked = torch.zeros_like(tokens)
        caches, heard = self.network.caches(len(mel)), self._heard(mel)

        def call() -> torch.Tensor:
            return (self.network.decode(tokens, positions, caches, heard, picked)[:, 0] + self._bias).argmax(-1)

        return call, tokens, tokens.cpu()

    def _contender(self, call: Callable[[], object]) -> Contender:
        return Contender(call, waiting(self.where))

    def _mel(self, mel: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(mel).to(self.where, self.network.dtype)

    def _heard(self, mel: np.ndarray) -> Heard:
        heard = self.network.hear(self.network.encode(self._mel(mel)))
        return [(keys.contiguous(), values.contiguous()) for keys, values in heard]

    def _tokens(self, n_rows: int, length: int, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.arange(position, position + length).repeat(n_rows, 1)
        tokens = torch.tensor([self._prompt[:length]] * n_rows)
        return tokens.to(self.where), positions.to(self.where)


def stored(model) -> dict[str, torch.Tensor]:
    """The weights of a loaded artifact, on the host: convolutions as PyTorch has them, the vocabulary without padding.

    Raises:
        ValueError: they are int8.
    """
    from whisper2max.runtime.weights import map_weights

    weights = {}
    for name, array in map_weights(model.artifact.files["weights.safetensors"]).items():
        if array.dtype == np.int8:
            raise ValueError("the weights are int8, which has no counterpart in plain PyTorch")
        tensor = torch.from_numpy(array.copy())
        weights[name] = tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor
    for name in ("encoder.conv1.weight", "encoder.conv2.weight"):
        n_out, width = weights[name].shape
        weights[name] = weights[name].view(n_out, 3, width // 3).permute(0, 2, 1).contiguous()
    embedding = "decoder.token_embedding.weight"
    weights[embedding] = weights[embedding][: model.engine.dims.n_vocab]
    return weights


def heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """[batch, length, state] -> [batch, heads, length, head_dim]."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def merged(x: torch.Tensor) -> torch.Tensor:
    """[batch, heads, length, head_dim] -> [batch, length, state]."""
    return x.transpose(1, 2).flatten(2)


def variants(name: str, where: str) -> dict[str, bool]:
    """Names of a contender, and whether it is recorded."""
    return {f"{name}, CUDA graph": True, name: False} if where == "cuda" else {name: False}


def both(name: str, prepared: Callable[[], Contender], where: str) -> Makers:
    """A contender as it is, and recorded as a CUDA graph where there is CUDA; each is prepared for itself."""

    def maker(recorded: bool) -> Contender:
        contender = prepared()
        return replace(contender, call=graphed(contender.call)) if recorded else contender

    return {each: lambda recorded=recorded: maker(recorded) for each, recorded in variants(name, where).items()}


def graphed(call: Callable[[], object]) -> Callable[[], object]:
    """The work of a function as one CUDA graph; gives the function's result, which every replay overwrites."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # MAX has threads of its own
        result = call()

    def replay(_kept: object = call) -> object:  # with the tensors that the graph reads
        graph.replay()
        return result

    return replay


def waiting(where: str) -> Callable[[], object]:
    """Waits for all work of PyTorch."""
    return torch.cuda.synchronize if where == "cuda" else lambda: None
