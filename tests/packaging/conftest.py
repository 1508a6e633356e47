"""The wheel that the packaging tests look into, built once from a copy of the sources."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = (
    "compiler",
    "kernels",
    "runtime",
    "samples",
    "templates",
    "tests",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


@pytest.fixture(scope="session")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel. A copy is built: no stale build folder gets in, and none is left behind."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (repository / name).is_dir():
            shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(repository / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(output),
    ]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = output.glob("whisper2max-*.whl")
    return path
