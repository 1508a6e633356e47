import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import warnings

import pytest
from artifact_samples import DIMS, generation_json, sample_spec, write_artifact

from whisper2max.artifact import artifact as artifact_module
from whisper2max.artifact.artifact import UnverifiedArtifactWarning, open_artifact
from whisper2max.core.errors import ArtifactError


@pytest.fixture
def sample(tmp_path):
    return write_artifact(tmp_path / "sample")


def test_opening_gives_what_the_manifest_says(sample):
    opened = open_artifact(str(sample))
    assert opened.path == sample
    assert opened.dims.to_dict() == DIMS
    assert (opened.dtype, opened.target, opened.verified) == ("float32", "native", True)
    assert opened.file("encoder.mef").path == sample / "encoder.mef"
    assert opened.file("encoder.mef").read(100) == b"encoder.mef of sample\n"
    assert opened.generation == json.loads(generation_json())
    assert opened.tokenizer.n_vocab == DIMS["n_vocab"] and opened.spec == sample_spec()
    assert opened.files.keys() == opened.manifest["files"].keys()


def test_a_closed_artifact_gives_no_file(sample):
    opened = open_artifact(sample)
    opened.close()
    with pytest.raises(ArtifactError, match="model.py was closed"):
        opened.file("model.py").read(100)


def test_a_file_that_is_not_listed_is_refused_by_name(sample):
    with pytest.raises(ArtifactError, match=r"holds no absent\.mef; it holds audio\.mef, encoder\.mef, "):
        open_artifact(sample).file("absent.mef")


def test_an_artifact_may_be_reached_through_a_link(sample, tmp_path):
    (tmp_path / "link").symlink_to("sample")
    assert open_artifact(tmp_path / "link").verified


def test_one_changed_bit_in_any_file_is_noticed(sample):
    for path in sorted(path for path in sample.rglob("*") if path.is_file()):
        original = path.read_bytes()
        for position in {0, len(original) // 2, len(original) - 1}:
            changed = bytearray(original)
            changed[position] ^= 1
            path.write_bytes(changed)
            with pytest.raises(ArtifactError) as error:
                open_artifact(sample)
            assert path.name in str(error.value)
        path.write_bytes(original)
    open_artifact(sample)


def test_every_file_that_differs_is_listed(sample):
    (sample / "model.py").unlink()
    (sample / "encoder.mef").write_text("short")
    (sample / "step.mef").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (sample / "__pycache__").mkdir()
    (sample / "__pycache__" / "model.pyc").write_text("code")
    with pytest.raises(ArtifactError) as error:
        open_artifact(sample)
    for problem in (
        "model.py is missing",
        "encoder.mef has 5 bytes instead of",
        "step.mef is a git-LFS pointer",
        "__pycache__/model.pyc is not listed",
    ):
        assert problem in str(error.value)


def test_links_and_special_files_are_refused_without_being_followed(sample, tmp_path):
    shutil.move(sample / "model.py", tmp_path / "model.py")
    (sample / "model.py").symlink_to(tmp_path / "model.py")
    shutil.rmtree(sample / "kernels")
    (sample / "kernels").symlink_to(tmp_path)
    os.mkfifo(sample / "pipe")
    with pytest.raises(ArtifactError, match="cp -rL") as error:
        open_artifact(sample)
    for problem in (
        "model.py is a symbolic link",
        "kernels is a symbolic link",
        "pipe is not a regular file",
    ):
        assert problem in str(error.value)


def test_what_is_not_an_artifact_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere does not exist.*whisper2max convert"):
        open_artifact(tmp_path / "nowhere")
    (tmp_path / "file.mef").write_text("")
    with pytest.raises(ArtifactError, match="is a file; an artifact is a directory"):
        open_artifact(tmp_path / "file.mef")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        open_artifact(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="looks like a checkpoint: run `whisper2max convert --checkpoint"):
        open_artifact(tmp_path)


def test_a_failed_conversion_is_refused(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "copy.failed")
    with pytest.raises(ArtifactError, match="failed conversion"):
        open_artifact(tmp_path / "copy.failed")
    (sample / "FAILED.txt").write_text("why")
    with pytest.raises(ArtifactError, match=r"FAILED\.txt in it says what failed"):
        open_artifact(sample)


def test_another_max_version_is_refused_unless_the_machine_does_not_matter(tmp_path):
    sample = write_artifact(tmp_path / "old", versions={"max": "1.2.3"})
    installed = importlib.metadata.version("max")
    with pytest.raises(
        ArtifactError, match=rf"MAX 1\.2\.3, and MAX {installed}.*whisper2max compile"
    ) as error:
        open_artifact(sample)
    assert "pip install max==1.2.3" in str(error.value)
    assert open_artifact(sample, check_machine=False).manifest["versions"]["max"] == "1.2.3"


def test_max_must_be_installed(sample, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ArtifactError, match="no MAX is installed here: run `pip install max=="):
        open_artifact(sample)


def test_missing_cpu_features_are_listed(tmp_path, monkeypatch):
    target = {"name": "native", "cpu_features": ["avx2", "avx512_vnni", "amx_int8"]}
    sample = write_artifact(tmp_path / "big", target=target)
    monkeypatch.setattr(artifact_module, "cpu_features", lambda: frozenset({"avx", "avx2"}))
    with pytest.raises(ArtifactError, match=r"lacks: amx_int8, avx512_vnni\. Run `whisper2max compile"):
        open_artifact(sample)
    open_artifact(sample, check_machine=False)


def test_hashes_are_checked_even_when_the_machine_is_not(sample):
    (sample / "model.py").write_text("model.py of simple\n")
    with pytest.raises(ArtifactError, match=r"model\.py does not have the sha256"):
        open_artifact(sample, check_machine=False)


def test_an_unverified_artifact_opens_with_a_warning(tmp_path):
    sample = write_artifact(tmp_path / "new", verified=False, parity=None)
    with pytest.warns(UnverifiedArtifactWarning, match="whisper2max verify") as caught:
        open_artifact(sample)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not open_artifact(sample, warn_unverified=False).verified


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_cannot_be_read_is_named(sample):
    (sample / "model.py").chmod(0)
    with pytest.raises(ArtifactError, match=r"cannot be read .*model\.py"):
        open_artifact(sample)


def test_importing_brings_neither_torch_nor_max():
    modules = "whisper2max.artifact.artifact, whisper2max.artifact.publication, whisper2max.build.cache"
    code = f"import sys, json, {modules}; "
    code += "print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "max", "numpy", "jinja2", "transformers"} & set(json.loads(output))
