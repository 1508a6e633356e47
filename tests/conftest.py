"""Fixtures that every area shares. Heavy imports stay out: they would slow every run of pytest."""

import os
from functools import cache
from pathlib import Path

import pytest

# On some CPUs MKL gives other bits where an array lies elsewhere in memory; torch is here to be equal to itself.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

ROOT = Path(__file__).resolve().parents[1]
# What takes one of these fixtures has the marker, wherever it stands.
MARKED = {"tiny_en_artifact": pytest.mark.slow, "browser": pytest.mark.browser}


def pytest_collection_modifyitems(items):
    for item in items:
        for fixture in MARKED.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKED[fixture])


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def shared_audio() -> Path:
    """The folder of recorded clips with its INDEX.tsv, which is not part of the repository.

    $WHISPER2MAX_AUDIO names it; without that it is looked for beside the repository. Tests that need it are
    skipped where it is missing, unless the variable promised it.
    """
    named = os.environ.get("WHISPER2MAX_AUDIO")
    folder = Path(named) if named else ROOT.parent / "shared" / "audio"
    if (folder / "INDEX.tsv").is_file():
        return folder
    if named:
        pytest.fail(f"WHISPER2MAX_AUDIO is {named}, and there is no INDEX.tsv in it")
    pytest.skip("no recorded clips: set WHISPER2MAX_AUDIO to a folder with clips and their INDEX.tsv")


@pytest.fixture(scope="session")
def small_converted(tmp_path_factory):
    """Artifacts of tiny random dimensions by dtype, each made once; graphs come from the user's cache when they can."""
    from small_models import VARIANTS, transformers_module

    import whisper2max

    @cache
    def converted(dtype: str):
        module = transformers_module(VARIANTS["multilingual_80_mels"], seed=3)
        return whisper2max.convert(module=module, dtype=dtype, output=tmp_path_factory.mktemp(dtype) / "artifact")

    return converted


@pytest.fixture(scope="session")
def small_artifact(small_converted):
    """The artifact of tiny random dimensions in float32."""
    return small_converted("float32")


@pytest.fixture(scope="session")
def tiny_en_artifact(tmp_path_factory):
    """The real tiny.en."""
    import whisper2max

    return whisper2max.convert(size="tiny.en", output=tmp_path_factory.mktemp("tiny.en") / "tiny.en")
