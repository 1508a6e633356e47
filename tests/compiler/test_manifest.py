import json

import pytest
from artifact_samples import manifest_fields, write_artifact, write_files

from whisper2max.errors import ArtifactError
from whisper2max.manifest import (
    file_sha256,
    manifest_digest,
    read_json_object,
    read_manifest,
    write_manifest,
)


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
        parity={"max_abs": 1.5e-5, "layers": (1, 2)}, source={"name": "été", 7: "int key"}
    )
    write_files(tmp_path)
    write_manifest(tmp_path, fields)
    manifest = read_manifest(tmp_path)
    assert manifest["format_version"] == 2
    assert manifest["parity"] == {"max_abs": 1.5e-5, "layers": [1, 2]}
    assert list(manifest["files"]) == sorted(manifest["files"])
    assert "manifest.json" not in manifest["files"]
    record = manifest["files"]["kernels/attention.mojo"]
    path = tmp_path / "kernels/attention.mojo"
    assert record == {"sha256": file_sha256(path), "bytes": path.stat().st_size}


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
    write_manifest(new, manifest_fields(name="another"))
    assert (old / "manifest.json").read_bytes() == before


def test_writing_lists_every_problem_of_the_fields(tmp_path):
    fields = manifest_fields(dtype=32, source={"name": "model", "files": ["a", "/home/me/model.pt"]})
    del fields["dims"], fields["versions"]["max"]
    (tmp_path / "link").symlink_to("model.py")
    with pytest.raises(ArtifactError) as error:
        write_manifest(tmp_path, fields)
    for problem in (
        "dims is missing",
        "dtype is of type int",
        "versions.max is missing",
        "source.files[1] is the absolute path /home/me/model.pt",
        "link is a symbolic link",
    ):
        assert problem in str(error.value)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ('{"a": {"b": 1, "b": 1}}', "duplicate key 'b'"),
        ('{"a": NaN}', "NaN is not a finite number"),
        ('{"a": -Infinity}', "-Infinity is not a finite number"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ("[1]", "a JSON list where an object is expected"),
        ("", "not valid JSON"),
        ('{"a": 1', "not valid JSON"),
        ('{"a":' * 100_000, "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
    ],
)
def test_json_is_read_strictly(tmp_path, text, complaint):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match="copy it again|convert the model again") as error:
        read_json_object(path)
    assert complaint in str(error.value)


def test_json_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ArtifactError, match="not valid JSON"):
        read_json_object(path)


def test_all_missing_fields_are_listed(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format_version": 2, "verified": "yes", "target": {}}')
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
    ],
)
def test_names_that_leave_the_artifact_are_refused(tmp_path, name):
    write_artifact(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(ArtifactError, match="not the name of a file inside the artifact"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "record", [None, {}, {"sha256": "0" * 63, "bytes": 1}, {"sha256": "0" * 64, "bytes": "1"}]
)
def test_files_without_hash_or_size_are_refused(tmp_path, record):
    write_artifact(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest["files"].update({"model.py": record}))
    with pytest.raises(ArtifactError, match="without a sha256 and a size"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("version", "remedy"), [(3, "upgrade"), (1, "convert"), ("2", "convert"), (True, "convert")]
)
def test_another_format_version_is_refused(tmp_path, version, remedy):
    write_artifact(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest.update(format_version=version))
    with pytest.raises(ArtifactError, match=rf"format_version .*this whisper2max reads 2: {remedy}"):
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
    ],
)
def test_dims_that_no_model_has_are_refused(tmp_path, change, complaint):
    write_artifact(tmp_path)
    rewrite(tmp_path, lambda manifest: manifest["dims"].update(change))
    with pytest.raises(ArtifactError, match=complaint):
        read_manifest(tmp_path)


def test_a_manifest_that_is_a_link_is_refused(tmp_path):
    artifact = write_artifact(tmp_path / "a")
    (artifact / "manifest.json").rename(tmp_path / "manifest.json")
    (artifact / "manifest.json").symlink_to("../manifest.json")
    with pytest.raises(ArtifactError, match="not a regular file"):
        read_manifest(artifact)
