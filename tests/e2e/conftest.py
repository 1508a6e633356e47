"""What the tests of the whole way share besides the artifacts: the small one's module, and tiny.en loaded."""

import pytest
from small_models import VARIANTS, transformers_module

import whisper2max


@pytest.fixture(scope="session")
def small_module():
    return transformers_module(VARIANTS["multilingual_80_mels"], seed=3)


@pytest.fixture(scope="session")
def tiny_en(tiny_en_artifact):
    """tiny.en, loaded."""
    return whisper2max.load(tiny_en_artifact.path)
