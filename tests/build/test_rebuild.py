"""compile records the target that it was asked for, also one that this machine cannot run."""

import pytest
from artifact_samples import contents, write_artifact

from whisper2max.artifact import artifact as artifact_module
from whisper2max.artifact.artifact import open_artifact
from whisper2max.artifact.manifest import GRAPHS_OF
from whisper2max.build import rebuild as rebuild_module
from whisper2max.build import target as target_module
from whisper2max.build.target import resolve
from whisper2max.core.cpu import X86_64_LEVELS
from whisper2max.core.errors import ArtifactError, UsageError


@pytest.fixture
def avx2_machine(monkeypatch):
    """One without AVX-512, and a compiler that writes the name of its target into every graph."""

    def compiler(source, directory, target, say):
        for name in GRAPHS_OF["cpu"]:
            (directory / f"{name}.mef").write_text(target.name)
        return {}

    monkeypatch.setattr(rebuild_module, "compile_graphs", compiler)
    monkeypatch.setattr(target_module.platform, "machine", lambda: "x86_64")
    for module in (artifact_module, target_module):
        monkeypatch.setattr(module, "cpu_features", lambda: X86_64_LEVELS["x86-64-v3"])


def test_a_lower_level_opens_here(tmp_path, avx2_machine):
    said = []
    rebuilt = rebuild_module.rebuild(write_artifact(tmp_path / "artifact"), said.append, "x86-64-v2")
    assert rebuilt.target == "x86-64-v2" and not rebuilt.verified and said == []
    assert rebuilt.manifest["target"] == resolve("x86-64-v2").to_dict()
    assert rebuilt.file("encoder.mef").read(100) == b"x86-64-v2"


def test_a_higher_level_is_made_and_does_not_open_here(tmp_path, avx2_machine):
    said = []
    path = write_artifact(tmp_path / "artifact")
    assert rebuild_module.rebuild(path, said.append, "x86-64-v4").target == "x86-64-v4"
    assert len(said) == 1 and "this machine lacks avx512bw, avx512cd" in said[0]
    with pytest.raises(ArtifactError, match="compiled for x86-64-v4, with CPU features that this machine lacks: avx5"):
        open_artifact(path)


def test_an_unknown_target_leaves_the_artifact_as_it_was(tmp_path, avx2_machine):
    path = write_artifact(tmp_path / "artifact")
    before = contents(path)
    with pytest.raises(UsageError, match="'sm_12' is not offered"):
        rebuild_module.rebuild(path, print, "sm_12")
    assert contents(path) == before
