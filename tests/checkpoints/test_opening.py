"""Which format a reference names."""

import pytest

from whisper2max.checkpoints import hub, open_checkpoint
from whisper2max.core.errors import CheckpointError


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no/such/path/model.pt", "does not exist. Give the path of a .pt file"),
        ("base", "base is the name of a size: use --size base"),
        ("./nowhere/model", "does not exist"),
    ],
)
def test_what_does_not_exist_is_named(reference, message):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(reference)


def test_directories_without_a_model_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no model: expected model.safetensors.*model.bin"):
        open_checkpoint(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "model.py").write_text("")
    with pytest.raises(CheckpointError, match="is a converted artifact, not a checkpoint"):
        open_checkpoint(tmp_path)


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="For safetensors or a pytorch_model.bin give the directory"):
        open_checkpoint(path)


@pytest.mark.parametrize("reference", ["openai/whisper-base", "a/b@main", "Systran/faster-whisper-tiny.en"])
def test_hub_ids(reference):
    assert hub.is_hub_id(reference)


@pytest.mark.parametrize(
    "reference", ["base", "/abs/path", "checkpoints/base.pt", "./here/there", "a/b/c", "~/models/x", "a/"]
)
def test_paths_are_not_hub_ids(reference):
    assert not hub.is_hub_id(reference)
