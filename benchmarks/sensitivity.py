"""What int8 costs in each part of Whisper base, the rest in float32: python benchmarks/sensitivity.py [clips]

One kind of layer at a time rounds as `convert --dtype int8` would: every row of activations, and every output of a
weight, to 127 steps of its own. The rest is openai-whisper's module. Printed are the relative errors (root mean square)
of audio states and of the logits of the first tokens, over the first 30 s of every recording.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from clips import audio_folder, clips
from measure import conditions
from whisper.model import ModelDimensions, Whisper

from whisper2max.checkpoints import open_size
from whisper2max.checkpoints.names import tensor_shapes, transformers_name
from whisper2max.runtime.audio import load_audio
from whisper2max.runtime.features import log_mel

SIZE, WINDOW, TOKENS = "base", 480_000, 24
PROMPT = [50258, 50259, 50359, 50363]

PARTS: dict[str, Callable[[str], bool]] = {
    "convolutions": lambda name: name.startswith("encoder.conv"),
    "encoder query, key, value": lambda name: name.startswith("encoder") and name.endswith(("query", "key", "value")),
    "encoder attention out": lambda name: name.startswith("encoder") and name.endswith("attn.out"),
    "encoder mlp.0": lambda name: name.startswith("encoder") and name.endswith("mlp.0"),
    "encoder mlp.2": lambda name: name.startswith("encoder") and name.endswith("mlp.2"),
    "cross keys and values, projections": lambda name: name.endswith(("cross_attn.key", "cross_attn.value")),
    "cross keys and values, stored": lambda name: False,
    "other Linears of the decoder": lambda name: (
        name.startswith("decoder") and not name.endswith(("cross_attn.key", "cross_attn.value"))
    ),
    "token table": lambda name: False,
}


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Every row in 127ths of its largest magnitude."""
    step = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return torch.round(x / step) * step


def int8_forward(module: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward of a Linear or of a convolution of the stem, both operands rounded."""
    if isinstance(module, torch.nn.Linear):
        weight = rounded(module.weight)
        return lambda x: F.linear(rounded(x), weight, module.bias)
    weight = rounded(module.weight.permute(0, 2, 1).flatten(1))

    def forward(x: torch.Tensor) -> torch.Tensor:
        frames = F.pad(x, (1, 1)).unfold(2, 3, module.stride[0]).permute(0, 2, 3, 1).flatten(2)
        return F.linear(rounded(frames), weight, module.bias).transpose(1, 2)

    return forward


@contextmanager
def narrowed(model: Whisper, part: str) -> Iterator[None]:
    """While it lasts, one part of the model computes or is stored in int8."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv1d) and PARTS[part](name):
                module.forward = int8_forward(module)
                stack.callback(delattr, module, "forward")
            if part == "cross keys and values, stored" and name.endswith(("cross_attn.key", "cross_attn.value")):
                heads = model.dims.n_text_head if name.endswith("key") else None
                stack.callback(module.register_forward_hook(stored_in_int8(heads)).remove)
        if part == "token table":
            table = model.decoder.token_embedding.weight
            stack.callback(setattr, table, "data", table.data)
            table.data = rounded(table.data)
        yield


def stored_in_int8(heads: int | None) -> Callable:
    """A hook that rounds keys by frame and head, or values by channel."""

    def hook(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        if heads is None:
            return rounded(output.transpose(1, 2)).transpose(1, 2)
        return rounded(output.unflatten(-1, (heads, -1))).flatten(-2)

    return hook


def openai_module() -> Whisper:
    """openai-whisper's module with the weights of `SIZE`."""
    checkpoint = open_size(SIZE, say=lambda message: None)
    stored = checkpoint.module.state_dict()
    model = Whisper(ModelDimensions(**checkpoint.dims.to_dict())).eval()
    model.load_state_dict({name: stored[transformers_name(name)] for name in tensor_shapes(checkpoint.dims)})
    return model


def greedy(model: Whisper, states: torch.Tensor) -> torch.Tensor:
    """The prompt and the most probable tokens after it."""
    tokens = torch.tensor([PROMPT])
    for _ in range(TOKENS):
        tokens = torch.cat([tokens, model.decoder(tokens, states)[:, -1:].argmax(-1)], 1)
    return tokens


def error(got: torch.Tensor, reference: torch.Tensor) -> float:
    """Root mean square of the difference over that of the reference."""
    return float((got - reference).pow(2).mean().sqrt() / reference.pow(2).mean().sqrt())


@torch.inference_mode()
def main() -> None:
    folder = audio_folder(sys.argv[1] if len(sys.argv) > 1 else None)
    model, windows = openai_module(), []
    for clip in clips(folder):
        samples = load_audio(folder / clip.file)[:WINDOW]
        mel = log_mel(np.pad(samples, (0, WINDOW - samples.size)), model.dims.n_mels)
        windows.append(torch.from_numpy(mel)[None])
    exact = [model.encoder(mel) for mel in windows]
    tokens = [greedy(model, states) for states in exact]
    logits = [model.decoder(each, states) for each, states in zip(tokens, exact, strict=True)]
    print(conditions(("torch", "openai-whisper")) + f", {SIZE}, {len(windows)} recordings")
    for part in PARTS:
        with narrowed(model, part):
            states = [model.encoder(mel) for mel in windows]
            got = [model.decoder(each, of) for each, of in zip(tokens, states, strict=True)]
        of_states = np.mean([error(*pair) for pair in zip(states, exact, strict=True)])
        of_logits = np.mean([error(*pair) for pair in zip(got, logits, strict=True)])
        print(f"{part}: audio states {of_states:.1%}, logits {of_logits:.1%}")


if __name__ == "__main__":
    main()
