import pytest
from small_models import VARIANTS, transformers_module


@pytest.fixture(scope="session")
def small_dims():
    return VARIANTS["multilingual_80_mels"]


@pytest.fixture
def small_module(small_dims):
    return transformers_module(small_dims)
