"""Real weights and recorded clips, and openai-whisper on the same weights as the judge."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import whisper.model

import whisper2max
from whisper2max.artifact.artifact import Artifact
from whisper2max.checkpoints import open_size
from whisper2max.core.cpu import cpu_features
from whisper2max.graph.walker import walk
from whisper2max.runtime.audio import load_audio


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Clip:
    name: str
    language: str
    transcript: str
    trusted: bool
    samples: np.ndarray


@pytest.fixture(scope="session")
def patience() -> float:
    """What the seconds that are promised on two cores with AVX-512 are multiplied by on older ones.

    They do half the arithmetic at a time, and Python runs half as fast on them.
    """
    return 1 if "avx512f" in cpu_features() else 2


@pytest.fixture(scope="session")
def clips(shared_audio) -> list[Clip]:
    """Every clip of the shared folder."""
    with (shared_audio / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Clip(
            row["file"], row["language"], row["reference"], row["trust"] == "A", load_audio(shared_audio / row["file"])
        )
        for row in rows
    ]


def openai_whisper(size: str) -> whisper.model.Whisper:
    """openai-whisper's own model with the packaged weights of a size."""
    checkpoint = open_size(size)
    walked = walk(checkpoint.module, checkpoint.dims)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(**checkpoint.dims.to_dict()))
    model.load_state_dict(walked.tensors)
    return model.eval()


@pytest.fixture(scope="session")
def base_converted(tmp_path_factory) -> Callable[[str], Artifact]:
    """Whisper base by dtype, each converted once."""

    @cache
    def converted(dtype: str) -> Artifact:
        return whisper2max.convert(size="base", dtype=dtype, output=tmp_path_factory.mktemp("base") / dtype)

    return converted


@pytest.fixture(scope="session")
def base_artifact(base_converted):
    return base_converted("float32")


@pytest.fixture(scope="session")
def base(base_artifact):
    return whisper2max.load(base_artifact.path)


@pytest.fixture(scope="session")
def base_reference():
    return openai_whisper("base")


@pytest.fixture(scope="session")
def tiny_en(tiny_en_artifact):
    return whisper2max.load(tiny_en_artifact.path)


@pytest.fixture(scope="session")
def tiny_en_reference():
    return openai_whisper("tiny.en")
