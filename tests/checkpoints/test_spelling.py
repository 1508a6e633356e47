"""Whose names a state dict has, after which prefix, and whose state dict it is."""

import json

import pytest
import torch
from checkpoint_writers import openai_state

from whisper2max.checkpoints import open_checkpoint, random_checkpoint
from whisper2max.checkpoints.spelling import dims_of_shapes, find_spelling
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import CheckpointError

EMBEDDING = "model.decoder.embed_tokens.weight"
PREFIXES = ["_orig_mod.", "module.", "base_model.model.", "model.", "whisper._orig_mod.module."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("projection", [False, True])
def test_one_prefix_on_every_name_of_a_directory_is_dropped_and_said(toy, write, same_weights, prefix, projection):
    path = write.huggingface(toy, pickle=True, projection=projection)
    state = torch.load(path / "pytorch_model.bin")
    torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()}, path / "pytorch_model.bin")
    checkpoint = open_checkpoint(path)
    same_weights(toy, checkpoint)
    (note,) = checkpoint.notes
    assert f"every name begins with '{prefix}model.', which is dropped" in note


@pytest.mark.parametrize("prefix", PREFIXES)
def test_one_prefix_on_every_name_of_a_file_is_dropped_and_said(toy, tmp_path, same_weights, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in openai_state(toy.module, toy.dims).items()}
    torch.save({"dims": toy.dims.to_dict(), "model_state_dict": state}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    same_weights(toy, checkpoint)
    assert f"every name begins with '{prefix}', which is dropped" in checkpoint.notes[0]


def test_usual_names_are_not_spoken_of(toy, write):
    assert open_checkpoint(write.huggingface(toy)).notes == ()
    assert open_checkpoint(write.openai(toy)).notes == ()


def test_a_single_name_without_the_prefix_is_refused(toy, write):
    path = write.huggingface(toy, pickle=True)
    state = torch.load(path / "pytorch_model.bin")
    kept = "model.encoder.conv1.bias"
    state = {name if name == kept else f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(state, path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"different prefixes: module.model. \(\d+\), model. \(1\)"):
        open_checkpoint(path)


def test_tied_twins_are_one_tensor_whichever_is_stored(toy, write, same_weights):
    embedding = toy.module.state_dict()[EMBEDDING]
    checkpoint = open_checkpoint(write.huggingface(toy, state={EMBEDDING: None, "proj_out.weight": embedding.clone()}))
    same_weights(toy, checkpoint)
    assert checkpoint.module.proj_out.weight is checkpoint.module.model.decoder.embed_tokens.weight


@pytest.fixture(scope="module")
def wide():
    """Of a width that is a multiple of a head's, so that the shapes tell all dimensions."""
    dims = ModelDimensions(80, 20, 128, 2, 1, 51864, 12, 128, 2, 2)
    return random_checkpoint(dims, seed=1)


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_a_state_dict_alone_opens_and_its_heads_are_said(wide, tmp_path, same_weights, key):
    state = wide.module.state_dict()
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "a.ckpt")
    checkpoint = open_checkpoint(tmp_path / "a.ckpt")
    same_weights(wide, checkpoint)
    assert checkpoint.dims == wide.dims
    assert "with 64 values for each attention head: 2 in each attention" in checkpoint.notes[-1]


def test_heads_that_are_not_certain_are_asked_for(toy, tmp_path):
    torch.save(toy.module.state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="how many attention heads.*config.json"):
        open_checkpoint(tmp_path / "a.pt")


def test_a_part_of_a_directory_is_answered_with_the_directory(toy, write):
    path = write.huggingface(toy, pickle=True)
    with pytest.raises(CheckpointError, match="belongs to the config.json beside it: give the directory"):
        open_checkpoint(path / "pytorch_model.bin")


def test_shapes_that_tell_no_dimension_are_named(wide):
    state = dict(wide.module.state_dict())
    del state["model.encoder.embed_positions.weight"]
    with pytest.raises(CheckpointError, match="embed_positions.weight, which would tell them, is missing"):
        dims_of_shapes(state, find_spelling(state, "here"), "here")


def test_mlx_and_other_relatives_are_named_by_what_they_are(toy, write, tmp_path):
    folder = tmp_path / "mlx"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**toy.dims.to_dict(), "model_type": "whisper"}))
    (folder / "weights.npz").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"is a model for MLX \(weights.npz\)"):
        open_checkpoint(folder)
