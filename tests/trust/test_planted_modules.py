"""Modules that lie where a user works: in the working directory, with a checkpoint, in an artifact. None is imported.

The commands are run as users run them, in processes of their own, with a cache that lacks one small graph, so that the
compiler is started too.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from crafting import Crafted
from small_models import VARIANTS, transformers_module

from whisper2max.artifact.manifest import GRAPHS
from whisper2max.build.cache import GraphCache
from whisper2max.build.compiler import Source
from whisper2max.build.target import resolve
from whisper2max.parity.taps import graph_taps
from whisper2max.samples import SPEECH

COMMAND = str(Path(sys.executable).with_name("whisper2max"))
MODULES = ("json", "argparse", "numpy", "max", "whisper2max")


@pytest.fixture(scope="module")
def marker(tmp_path_factory) -> Path:
    """The file that a planted module writes when it is imported."""
    return tmp_path_factory.mktemp("marker") / "imported"


@pytest.fixture(scope="module")
def plant(marker):
    def into(directory: Path) -> list[str]:
        names = [f"{name}.py" for name in MODULES]
        for name in names:
            (directory / name).write_text(f"open({str(marker)!r}, 'a').write({name!r} + ' ')\n")
        return names

    return into


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, plant) -> Path:
    """A downloaded model folder with more in it than a model."""
    directory = tmp_path_factory.mktemp("checkpoint")
    transformers_module(VARIANTS["multilingual_80_mels"], seed=3).save_pretrained(directory)
    plant(directory)
    return directory


@pytest.fixture(scope="module")
def artifact(small_artifact, tmp_path_factory, plant) -> Path:
    """An artifact that lists the planted modules, with hashes that agree."""
    crafted = Crafted(small_artifact.path, tmp_path_factory.mktemp("planted") / "artifact")
    names = plant(crafted.path)
    crafted.change_manifest(lambda manifest: manifest["files"].update(dict.fromkeys(names)), hashes=True)
    return crafted.path


@pytest.fixture(scope="module")
def cache(small_artifact, tmp_path_factory) -> Path:
    """The graphs of the small artifact but for the features, which compile fastest."""
    root = tmp_path_factory.mktemp("cache") / "graphs"
    source, target, shared, own = Source.of(small_artifact.files), resolve("native"), GraphCache(), GraphCache(root)
    wanted = [(name, ()) for name in GRAPHS if name != "features"]
    for name, taps in [*wanted, *graph_taps(small_artifact.spec).items()]:
        key = source.reached(name).key(target, taps)
        own.put(key, name, shared.get(key, name).path, {})
    return root


@pytest.fixture
def run(cache, marker):
    """Runs a command and requires that it succeeds without importing what was planted."""

    def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        result = subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=cwd,
            env={**environment, "WHISPER2MAX_CACHE": str(cache)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not marker.exists(), f"{marker.read_text()}was imported"
        assert result.returncode == 0, result.stderr
        return result

    return command


@pytest.fixture
def no_features(cache):
    """The compiler has something to do."""
    for entry in (cache / "graphs").glob("features-*"):
        shutil.rmtree(entry)


def test_what_is_planted_would_be_noticed(checkpoint, marker):
    for name in MODULES:
        subprocess.run([sys.executable, "-c", f"import {name}"], cwd=checkpoint, check=True)
        assert marker.read_text() == f"{name}.py "
        marker.unlink()


def test_convert(checkpoint, tmp_path, no_features, run):
    result = run("convert", "--checkpoint", ".", "--output", tmp_path / "artifact", cwd=checkpoint)
    assert "compiled graph features in" in result.stderr


def test_compile(artifact, tmp_path, no_features, run):
    shutil.copytree(artifact, tmp_path / "artifact")
    result = run("compile", tmp_path / "artifact", cwd=artifact)
    assert "compiled graph features in" in result.stderr


def test_verify(artifact, checkpoint, run):
    assert "passed" in run("verify", artifact, "--checkpoint", ".", cwd=checkpoint).stderr


def test_the_other_commands(artifact, checkpoint, run):
    run("transcribe", ".", SPEECH, "--language", "en", "--threads", "1", cwd=artifact)
    run("inspect", ".", cwd=artifact)
    run("inspect", ".", cwd=checkpoint)
    run("cache", "list", cwd=checkpoint)
