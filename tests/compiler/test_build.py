"""What a compiled graph is kept under, and for which CPU the compiler is asked."""

import subprocess
from pathlib import Path

import pytest

from whisper2max import build
from whisper2max.target import Target, resolve


@pytest.fixture
def sources(tmp_path, monkeypatch):
    monkeypatch.setenv("WHISPER2MAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "model.py").write_text("BUILDERS = {}\n")
    (tmp_path / "kernels").mkdir()
    return tmp_path


def key(sources, target, *taps):
    return build.graph_key(sources / "model.py", sources / "kernels", target, taps)


def test_the_key_follows_the_features_of_the_target_and_not_its_name(sources):
    targets = [resolve(name) for name in ("x86-64-v2", "x86-64-v3", "x86-64-v4")]
    assert len({key(sources, target) for target in targets}) == 3
    assert key(sources, Target("native", targets[1].cpu_features)) == key(sources, targets[1])


def test_every_graph_is_compiled_for_the_target_and_kept_apart(sources, monkeypatch):
    asked = []

    def compiler(command, **options):
        asked.append(command[3:])
        Path(command[6]).write_text(command[-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(build.subprocess, "run", compiler)
    for name, cpu in (("x86-64-v3", "x86-64-v3"), ("x86-64-v2", "x86-64-v2"), ("native", "")):
        kept = build.compile_tapped(sources, {"step": ["decoder.ln"]}, resolve(name), lambda message: None)
        assert kept["step"].read_text() == f"--cpu={cpu}"
        assert asked[-1][2] == "step" and asked[-1][4:] == ["decoder.ln", f"--cpu={cpu}"]
    assert len(asked) == 3
    assert {entry.info["target"] for entry in build.GraphCache().entries()} == {"x86-64-v3", "x86-64-v2", "native"}
