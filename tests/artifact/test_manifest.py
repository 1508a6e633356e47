import json
from hashlib import sha256

import pytest
from artifact_samples import manifest_fields, write_artifact, write_files

from whisper2max.artifact.manifest import (
    FORMAT_VERSION,
    manifest_digest,
    read_json_object,
    read_manifest,
    write_manifest,
)
from whisper2max.core.errors import ArtifactError


def rewrite(directory, change, digest=True):
    """Changes a manifest as an attacker or another program might, with a matching digest."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if digest:
        manifest["digest"] = manifest_digest(manifest)
    path.write_text(json.dumps(manifest))


def test_what_is_written_reads_back(tmp_path):
    fields = manifest_fields(
        parity={"max_abs": 1.5e-5, "layers": (1, 2)}, source={"format": "random", "name": "été", 7: "int key"}
    )
    write_files(tmp_path)
    write_manifest(tmp_path, fields)
    manifest = read_manifest(tmp_path)
    assert manifest["format_version"] == FORMAT_VERSION
    assert manifest["parity"] == {"max_abs": 1.5e-5, "layers": [1, 2]}
    assert list(manifest["files"]) == sorted(manifest["files"])
    assert "manifest.json" not in manifest["files"]
    record = manifest["files"]["kernels/attention.mojo"]
    path = tmp_path / "kernels/attention.mojo"
    assert record == {"sha256": sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


def test_a_manifest_can_be_passed_back_with_changes(tmp_path):
    write_artifact(tmp_path, verified=False)
    (tmp_path / "parity.json").write_text("{}\n")
    write_manifest(tmp_path, read_manifest(tmp_path) | {"verified": True})
    manifest = read_manifest(tmp_path)
    assert manifest["verified"] is True
    assert manifest["files"]["parity.json"]["bytes"] == 3


def test_rewriting_a_manifest_does_not_write_through_a_hard_link(tmp_path):
    old, new = write_artifact(tmp_path / "old"), tmp_path / "new"
    new.mkdir()
    (new / "manifest.json").hardlink_to(old / "manifest.json")
    before = (old / "manifest.json").read_bytes()
    write_files(new)
    write_manifest(new, manifest_fields(name="another"))
    assert (old / "manifest.json").read_bytes() == before


def test_writing_lists_every_problem_of_the_fields(tmp_path):
    fields = manifest_fields(dtype=32, source={"name": "model", "files": ["a", "/home/me/model.pt"], "request": 3})
    del fields["dims"], fields["versions"]["max"]
    (tmp_path / "link").symlink_to("model.py")
    with pytest.raises(ArtifactError) as error:
        write_manifest(tmp_path, fields)
    for problem in (
        "dims is missing",
        "dtype is of type int",
        "versions.max is missing",
        "source.format is missing",
        "source.request is neither null nor made of size, checkpoint, random_init",
        "source.files[1] is the absolute path /home/me/model.pt",
        "link is a symbolic link",
    ):
        assert problem in str(error.value)
    assert not (tmp_path / "manifest.json").exists()


def test_json_is_read_strictly(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"a": 1, "a": 2}')
    with pytest.raises(ArtifactError, match="file.json is not valid JSON .duplicate key 'a'.*convert the model again"):
        read_json_object(path)


def test_all_missing_fields_are_listed(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format_version": 5, "verified": "yes", "target": {}}')
    with pytest.raises(ArtifactError) as error:
        read_manifest(tmp_path)
    for name in ("created", "name", "dims", "dtype", "source", "versions", "parity", "files", "digest"):
        assert f"{name} is missing" in str(error.value)
    assert "verified is of type str" in str(error.value)
    assert "target.cpu_features is missing" in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "../model.py",
        "/etc/passwd",
        "kernels/../../x",
        "a//b",
        "./a",
        "a/",
        "",
        ".",
        "a\\b",
        "a\0b",
        "manifest.json",
        "FAILED.txt",
    ],
)
def test_names_that_leave_the_artifact_are_refused(tmp_path, name):
    write_artifact(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(ArtifactError, match="not the name of a file inside the artifact"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"sha256": "0" * 63, "bytes": 1},
        {"sha256": "0" * 64, "bytes": "1"},
        {"sha256": "0" * 64, "bytes": -1},
        {"sha256": "0" * 64, "bytes": True},
        {"sha256": "0" * 64, "bytes": 1.0},
    ],
)
def test_files_without_hash_or_size_are_refused(tmp_path, record):
    write_artifact(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest["files"].update({"model.py": record}))
    with pytest.raises(ArtifactError, match="without a sha256 and a size"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (FORMAT_VERSION + 1, "upgrade"),
        (FORMAT_VERSION - 1, "convert"),
        (str(FORMAT_VERSION), "convert"),
        (float(FORMAT_VERSION), "convert"),
        (True, "convert"),
    ],
)
def test_another_format_version_is_refused(tmp_path, version, remedy):
    write_artifact(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest.update(format_version=version))
    with pytest.raises(ArtifactError, match=rf"format_version .*whisper2max reads {FORMAT_VERSION}: {remedy}"):
        read_manifest(tmp_path)


def test_a_changed_field_does_not_match_the_digest(tmp_path):
    write_artifact(tmp_path, verified=False)
    rewrite(tmp_path, lambda manifest: manifest.update(verified=True), digest=False)
    with pytest.raises(ArtifactError, match="its digest does not match"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n_mels": 0}, "n_mels is 0"),
        ({"n_layers": 4}, "ten integers"),
        ({"n_audio_head": 3}, "not a multiple"),
        ({"n_vocab": 10**12}, "n_vocab is above 1048576"),
    ],
)
def test_dims_that_no_model_has_are_refused(tmp_path, change, complaint):
    write_artifact(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest["dims"].update(change))
    with pytest.raises(ArtifactError, match=complaint):
        read_manifest(tmp_path)


def test_what_every_artifact_has_is_listed(tmp_path):
    write_artifact(tmp_path)

    def drop(manifest):
        for name in ("step.mef", "graph.txt", "kernels/attention.mojo"):
            del manifest["files"][name]

    rewrite(tmp_path, drop)
    with pytest.raises(ArtifactError, match=r"graph\.txt, step\.mef, kernels/\*\.mojo not listed"):
        read_manifest(tmp_path)


def test_more_than_an_artifact_can_have_is_refused(tmp_path):
    write_artifact(tmp_path)
    record = {"sha256": "0" * 64, "bytes": 1 << 40}
    rewrite(tmp_path, lambda manifest: manifest["files"].update({"weights.safetensors": record}))
    with pytest.raises(ArtifactError, match="'weights.safetensors' is recorded with more bytes than"):
        read_manifest(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest["files"].update({f"x{n}": record for n in range(300)}))
    with pytest.raises(ArtifactError, match=r"3\d\d files are listed, and no artifact has more than 256"):
        read_manifest(tmp_path)


def test_an_unknown_dtype_is_refused(tmp_path):
    write_artifact(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest.update(dtype="evil"))
    with pytest.raises(ArtifactError, match="dtype is 'evil', expected one of float32, bfloat16, int8"):
        read_manifest(tmp_path)


def test_what_was_proven_is_what_is_listed(tmp_path):
    write_files(tmp_path)
    names = ("weights.safetensors", "encoder.mef")
    proven = {name: sha256((tmp_path / name).read_bytes()).hexdigest() for name in names}
    write_manifest(tmp_path, manifest_fields(), proven)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "encoder.mef").write_text("another")
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"weights\.safetensors, encoder\.mef of .* changed between the comparison"):
        write_manifest(tmp_path, manifest_fields(), proven)
    assert not (tmp_path / "manifest.json").exists()


def test_a_manifest_that_is_a_link_is_refused(tmp_path):
    artifact = write_artifact(tmp_path / "a")
    (artifact / "manifest.json").rename(tmp_path / "manifest.json")
    (artifact / "manifest.json").symlink_to("../manifest.json")
    with pytest.raises(ArtifactError, match="not a regular file"):
        read_manifest(artifact)
