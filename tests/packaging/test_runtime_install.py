"""`pip install whisper2max` in a new environment brings no torch, and is as large as the README says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ABSENT = {"torch", "transformers", "jinja2", "mojo", "openai-whisper", "triton"}


@pytest.fixture(scope="module")
def runtime(repository: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """(interpreter of a new environment with the wheel, GB that the installation added)."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    before = bytes_on_disk(folder)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "-q", str(wheel), "-c", str(repository / "constraints.txt")]
    installed = subprocess.run(command, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    return python, (bytes_on_disk(folder) - before) / 1e9


def bytes_on_disk(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def output(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_readme_states_the_size(repository: Path, runtime: tuple[Path, float]):
    _, gigabytes = runtime
    (stated,) = re.findall(
        r"`pip install whisper2max` .*?(\d\.\d+) GB", (repository / "README.md").read_text()
    )
    print(f"the runtime adds {gigabytes:.2f} GB")
    assert gigabytes == pytest.approx(float(stated), rel=0.1)


def test_no_converter_package_is_installed(runtime: tuple[Path, float]):
    python, _ = runtime
    installed = {
        line.split("==")[0].lower() for line in output(python, "-m", "pip", "freeze", "--all").splitlines()
    }
    assert "max" in installed
    assert installed & ABSENT == set()


def test_every_module_of_the_runtime_can_be_imported(runtime: tuple[Path, float]):
    python, _ = runtime
    code = (
        "import importlib, pkgutil, whisper2max.runtime as runtime\n"
        "import whisper2max.cli.main, whisper2max.artifact.artifact\n"
        "import whisper2max.build.cache, whisper2max.build.rebuild\n"
        "for module in pkgutil.iter_modules(runtime.__path__):\n"
        "    importlib.import_module(f'{runtime.__name__}.{module.name}')"
    )
    output(python, "-c", code)


def test_the_command_runs(runtime: tuple[Path, float]):
    python, _ = runtime
    assert "transcribe" in output(python.with_name("whisper2max"), "--help")


def test_convert_says_what_to_install(runtime: tuple[Path, float]):
    python, _ = runtime
    command = [python.with_name("whisper2max"), "convert", "--size", "base"]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=python.parent)
    assert refused.returncode == 2
    assert "whisper2max[convert]" in refused.stderr
    assert "Traceback" not in refused.stderr
