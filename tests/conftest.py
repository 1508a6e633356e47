"""Fixtures that every area shares. Heavy imports stay out: they would slow every run of pytest."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
def small_artifact(tmp_path_factory):
    """An artifact of tiny random dimensions in float32; its graphs come from the user's cache when they can."""
    from small_models import VARIANTS, transformers_module

    import whisper2max

    module = transformers_module(VARIANTS["multilingual_80_mels"], seed=3)
    return whisper2max.convert(module=module, output=tmp_path_factory.mktemp("small") / "artifact")
