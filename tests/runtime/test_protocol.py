"""Whoever runs a model for decoding is an `Engine`: mypy reads `engines_typed.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Not ours, large, and without a part in the protocol.
UNREAD = "av,max,openvino,peers.openvino_export,pytest,safetensors,tokenizers,torch,transformers,whisper".split(",")


@pytest.fixture(scope="module")
def mypy(repository: Path, tmp_path_factory):
    """Runs mypy on files; gives what it says."""
    folder = tmp_path_factory.mktemp("mypy")
    # mypy cannot follow the finder of an editable installation, so the package is put together here
    package = folder / "whisper2max"
    package.mkdir()
    for path in (repository / "compiler" / "whisper2max").iterdir():
        (package / path.name).symlink_to(path)
    for room in ("kernels", "runtime", "samples", "templates"):
        (package / room).symlink_to(repository / room)
    modules = ",".join(f"{name},{name}.*" for name in UNREAD)
    (folder / "mypy.ini").write_text(
        "[mypy]\nfollow_imports = silent\n"
        f"[mypy-{modules}]\nfollow_imports = skip\nignore_missing_imports = True\n"
    )
    path = [folder, Path(__file__).parent, repository / "benchmarks"]

    def run(*files: Path) -> str:
        command = [sys.executable, "-m", "mypy", "--config-file", folder / "mypy.ini", "--cache-dir", folder, *files]
        environment = {**os.environ, "MYPYPATH": os.pathsep.join(map(str, path))}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout

    return run


USE_ENGINES = ("decoding", "detection", "loop", "recording", "transcribe", "windows", "in_turn", "at_pauses")
DECIDE = ("choice", "hypotheses", "options", "prompts", "protocol", "rest", "rules", "search")


def test_those_who_use_an_engine_ask_no_more_of_it(mypy, repository):
    said = mypy(*(repository / "runtime" / f"{name}.py" for name in (*USE_ENGINES, *DECIDE)))
    assert "Success: no issues found" in said, said


def test_every_engine_is_one(mypy):
    assert "Success: no issues found" in (said := mypy(Path(__file__).with_name("engines_typed.py"))), said


@pytest.mark.parametrize(
    "change",
    [
        ("def step(self, tokens: np.ndarray, rows: Rows)", "def step(self, tokens: np.ndarray)"),
        ("def features(", "def log_mel_powers("),
        ("def hear(self, mel: np.ndarray, audio: int)", "def hear(self, mel: np.ndarray, audio: str)"),
    ],
    ids=["a session that steps otherwise", "an engine without features", "audios of another type"],
)
def test_one_that_is_none_is_named(mypy, tmp_path, change):
    """The torch engine, changed."""
    source = Path(__file__).with_name("conftest.py").read_text()
    assert source.count(change[0]) == 1
    changed = tmp_path / "changed_engines.py"
    changed.write_text(
        source.replace(*change)
        + "\n\nfrom whisper2max.runtime.protocol import Engine\n\n"
        + "def check(engine: TorchEngine) -> Engine:\n    return engine\n"
    )
    output = mypy(changed)
    assert 'got "TorchEngine", expected "Engine"' in output, output
