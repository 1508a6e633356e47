"""The torch side of a comparison: the walked module itself, run as its authors wrote it.

Two runs of it. The witness computes in float32, as users of PyTorch do. The judge computes in float64;
its weights are widened one module at a time while that module runs, so that they need not fit twice.
openai-whisper computes its norms in float32 whatever it is given, so the judge of a live openai-whisper
module is transformers' module with the same weights.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from whisper2max.checkpoints.assemble import assemble
from whisper2max.checkpoints.module import OPENAI, TRANSFORMERS, float32_copy
from whisper2max.checkpoints.names import transformers_name
from whisper2max.core.errors import ParityError, SpecError
from whisper2max.graph.converters.registry import qualified_name
from whisper2max.graph.ir import Gelu, LayerNorm
from whisper2max.graph.walker import WalkedModule, walk
from whisper2max.parity.taps import LOGITS, Tap

# Called with path, values [batch, rows, width], and (smallest, largest) variance of a norm's input or None.
Sink = Callable[[str, np.ndarray, tuple[float, float] | None], None]


class Reference:
    """Audio states, logits and greedy tokens of a PyTorch Whisper, with every value on the way.

    Args:
        module: `transformers.WhisperForConditionalGeneration` or openai-whisper's `Whisper`, eval mode.
        walked: what the walk of this module found.
        dtype: that it computes in.
    """

    def __init__(self, module: torch.nn.Module, walked: WalkedModule, dtype: torch.dtype = torch.float32):
        families = {TRANSFORMERS: _Transformers, OPENAI: _OpenAI}
        name = qualified_name(module)
        if name not in families:
            raise SpecError(f"no reference for a {name}; expected one of {', '.join(families)}")
        self._module = module
        self._dtype = dtype
        self._family = families[name](module)
        self._sources = source_paths(walked, self._family.logits_module)
        package = {"transformers": "transformers", "whisper": "openai-whisper"}[name.partition(".")[0]]
        versions = ", ".join(f"{each} {importlib.metadata.version(each)}" for each in (package, "torch"))
        precision = str(dtype).removeprefix("torch.")
        self.description = f"{name.rpartition('.')[2]} ({versions}, {precision})"

    def source_path(self, path: str) -> str | None:
        """Where the reference's tree has the module of a canonical path; None if it has none of its own."""
        return self._sources.get(path)

    @torch.inference_mode()
    def encode(self, mel: np.ndarray, taps: Sequence[Tap] = (), sink: Sink | None = None) -> np.ndarray:
        """float32 [batch, n_mels, frames] -> audio states [batch, n_audio_ctx, n_audio_state]; taps go to `sink`."""
        with self._tapped(taps, sink):
            return self._family.encode(torch.from_numpy(mel).to(self._dtype)).numpy()

    @torch.inference_mode()
    def logits(
        self, tokens: np.ndarray, states: np.ndarray, taps: Sequence[Tap] = (), sink: Sink | None = None
    ) -> np.ndarray:
        """Teacher-forced logits [batch, length, n_vocab] of int64 [batch, length]; taps go to `sink`."""
        with self._tapped(taps, sink):
            logits = self._family.logits(torch.from_numpy(tokens), torch.from_numpy(states).to(self._dtype))
        return logits.to(self._dtype).numpy()

    @torch.inference_mode()
    def greedy(self, prompt: list[int], states: np.ndarray, limit: int, eot: int) -> list[int]:
        """Most probable next tokens after `prompt`, at most `limit`, up to and including `eot`."""
        step = self._family.incremental(torch.from_numpy(states).to(self._dtype))
        tokens: list[int] = []
        fed = prompt
        while len(tokens) < limit and (not tokens or tokens[-1] != eot):
            tokens.append(int(step(torch.tensor([fed]))[0, -1].argmax()))
            fed = tokens[-1:]
        return tokens

    @contextmanager
    def replacing(self, inputs: Callable[[str, np.ndarray], np.ndarray], blocks: Sequence[str]) -> Iterator[None]:
        """While it lasts, block `path` is fed inputs(path, what it would have got), [batch, rows, state]."""

        def replace(path: str):
            def hook(module, args, kwargs):
                values = torch.from_numpy(inputs(path, args[0].numpy())).to(self._dtype)
                return (values, *args[1:]), kwargs

            return hook

        handles = [
            self._module.get_submodule(self._sources[path]).register_forward_pre_hook(replace(path), with_kwargs=True)
            for path in blocks
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _tapped(self, taps: Sequence[Tap], sink: Sink | None) -> Iterator[None]:
        seen: dict[str, int] = {tap.path: 0 for tap in taps}

        def give(tap: Tap, value: torch.Tensor, variance: tuple[float, float] | None = None) -> None:
            seen[tap.path] += 1
            convolved = tap.module in ("encoder.conv1", "encoder.conv2")
            sink(tap.path, (value.transpose(1, 2) if convolved else value).numpy(), variance)

        handles = []
        for tap in taps:
            module = self._module.get_submodule(self._sources[tap.module])
            handles.append(module.register_forward_hook(_hook(tap, give), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        wrong = [path for path, count in seen.items() if count != 1]
        if wrong:
            raise ParityError(
                f"{self.description} gave {len(seen) - len(wrong)} of {len(seen)} values, each once, but not "
                f"{', '.join(wrong[:5])}"
            )


def judge_of(module: torch.nn.Module, walked: WalkedModule) -> Reference:
    """The float64 run of a module; its tensors are shared, not copied."""
    if qualified_name(module) == TRANSFORMERS:
        judge = float32_copy(module)
        judge.set_attn_implementation("eager")
    else:
        judge = _as_transformers(walked)
        walked = walk(judge, walked.spec.dims)
    for part in judge.modules():
        if next(part.parameters(recurse=False), None) is not None:
            _widen_while_running(part)
    return Reference(judge, walked, torch.float64)


def source_paths(walked: WalkedModule, logits_module: str) -> dict[str, str]:
    """Module in the source tree by canonical path, blocks and logits included."""
    sources = {**walked.source_paths, LOGITS: logits_module}
    for path, source in walked.source_paths.items():
        if path.endswith(".attn"):
            sources[path.removesuffix(".attn")] = source.rpartition(".")[0]
    return sources


def _hook(tap: Tap, give: Callable) -> Callable:
    def hook(module, args, kwargs, output):
        entering = args[0] if args else kwargs["hidden_states"]
        if tap.side == "input":
            give(tap, entering)
            return
        leaving = output[0] if isinstance(output, tuple) else output
        if not isinstance(module, torch.nn.LayerNorm):
            give(tap, leaving)
            return
        lowest, highest = entering.var(-1, correction=0).aminmax()
        give(tap, leaving, (float(lowest), float(highest)))

    return hook


def _as_transformers(walked: WalkedModule) -> torch.nn.Module:
    module = assemble(walked.tensors, walked.spec.dims, lambda name: name, "the walked module")
    for path, node in walked.spec.nodes.items():
        if isinstance(node, LayerNorm):
            module.get_submodule(_transformers_module(path)).eps = node.eps
        elif isinstance(node, Gelu):
            block = _transformers_module(path.replace(".mlp.1", ".mlp.0")).rpartition(".")[0]
            module.get_submodule(block).activation_fn = torch.nn.GELU(approximate=node.approximate)
    return module


def _transformers_module(path: str) -> str:
    return transformers_name(f"{path}.weight").removesuffix(".weight")


def _widen_while_running(module: torch.nn.Module) -> None:
    stored: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def widen(module, args):
        for parameter in module.parameters(recurse=False):
            stored.append((parameter, parameter.data))
            parameter.data = parameter.data.double()

    def restore(module, args, output):
        while stored:
            parameter, data = stored.pop()
            parameter.data = data

    module.register_forward_pre_hook(widen)
    module.register_forward_hook(restore, always_call=True)


Step = Callable[[torch.Tensor], torch.Tensor]


class _Transformers:
    logits_module = "proj_out"

    def __init__(self, module: torch.nn.Module):
        self.module = module

    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        return self.module.model.encoder(mel).last_hidden_state

    def logits(self, tokens: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        encoded = BaseModelOutput(last_hidden_state=states)
        return self.module(decoder_input_ids=tokens, encoder_outputs=encoded, use_cache=False).logits

    def incremental(self, states: torch.Tensor) -> Step:
        encoded = BaseModelOutput(last_hidden_state=states)
        cache = None

        def step(tokens: torch.Tensor) -> torch.Tensor:
            nonlocal cache
            output = self.module(
                decoder_input_ids=tokens, encoder_outputs=encoded, past_key_values=cache, use_cache=True
            )
            cache = output.past_key_values
            return output.logits

        return step


class _OpenAI:
    logits_module = "decoder"

    def __init__(self, module: torch.nn.Module):
        self.module = module

    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        return self.module.encoder(mel)

    def logits(self, tokens: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return self.module.decoder(tokens, states)

    def incremental(self, states: torch.Tensor) -> Step:
        fed = torch.empty((1, 0), dtype=torch.int64)

        def step(tokens: torch.Tensor) -> torch.Tensor:
            nonlocal fed
            fed = torch.cat([fed, tokens], dim=1)
            return self.module.decoder(fed, states)

        return step


def reference_log_mel(samples: np.ndarray, n_mels: int) -> np.ndarray:
    """transformers' numpy features of 30 s: float32 [480000] at 16 kHz -> float32 [n_mels, 3000].

    The numpy path, because the extractor's torch path differs from it by 2.4e-5.
    """
    extractor = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    return extractor._np_extract_fbank_features(samples[None], "cpu")[0].astype(np.float32)
