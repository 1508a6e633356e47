"""openai-whisper's .pt files."""

import hashlib
import os

import pytest
import torch

from whisper2max.checkpoints import open_checkpoint
from whisper2max.core.errors import CheckpointError, TokenizerError


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_pt_file_opens(toy, write, same_weights, dtype):
    path = write.openai(toy, dtype)
    checkpoint = open_checkpoint(path)
    same_weights(toy, checkpoint, dtype)
    assert checkpoint.source == {
        "format": "openai",
        "name": "toy.pt",
        "revision": None,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "stored_dtype": str(dtype).removeprefix("torch."),
    }
    assert checkpoint.generation["alignment_heads"] is None
    assert "tiktoken" in checkpoint.generation["origin"]["special_tokens"]
    assert len(checkpoint.generation["suppress_tokens"]) == 90


def test_the_former_layout_of_torch_save_opens(toy, write, same_weights, tmp_path):
    path = write.openai(toy, torch.float32)
    old = tmp_path / "old.pt"
    torch.save(torch.load(path, weights_only=True), old, _use_new_zipfile_serialization=False)
    same_weights(toy, open_checkpoint(old))


def test_openai_whisper_loads_what_the_test_wrote(toy, write):
    whisper = pytest.importorskip("whisper")
    module = whisper.load_model(str(write.openai(toy, torch.float32)), device="cpu")
    assert torch.equal(module.decoder.token_embedding.weight, toy.module.proj_out.weight)


def test_without_any_tokenizer_it_is_asked_for(toy, write, no_tokenizers, tmp_path):
    path = write.openai(toy)
    with pytest.raises(TokenizerError, match="51864 tokens is installed.*--tokenizer"):
        open_checkpoint(path)
    (tmp_path / "tokenizer.json").write_bytes(toy.tokenizer_json)
    checkpoint = open_checkpoint(path, tokenizer=tmp_path)
    assert checkpoint.tokenizer_json == toy.tokenizer_json
    assert checkpoint.generation["origin"]["languages"] == "given by --tokenizer"


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(toy, write, tmp_path):
    path = write.openai(toy, extra=RunsCode(tmp_path / "it-ran"))
    with pytest.raises(CheckpointError, match="besides tensors.*safe"):
        open_checkpoint(path)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_a_truncated_file_is_refused(toy, write, kept):
    path = write.openai(toy)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match=r"toy.pt cannot be read: it is truncated.*get it again"):
        open_checkpoint(path)


def test_a_pointer_in_the_place_of_the_file_is_recognised(tmp_path):
    (tmp_path / "base.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\n")
    with pytest.raises(CheckpointError, match="base.pt is a git-LFS pointer"):
        open_checkpoint(tmp_path / "base.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "holds no Whisper: none of its 0 tensors"),
        ({"weights": 1}, "expected the keys dims and model_state_dict.*found weights"),
        ([1], "found a list"),
        ({"dims": {"n_mels": 80}, "model_state_dict": {}}, "ten dimensions"),
    ],
)
def test_another_pickle_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "other.pt")


def test_what_is_not_a_tensor_is_named(toy, write):
    with pytest.raises(CheckpointError, match="epoch.*training checkpoint"):
        open_checkpoint(write.openai(toy, state={"epoch": 3}))


def test_dims_of_another_model_are_refused_by_the_shapes(toy, write):
    dims = toy.dims.to_dict() | {"n_mels": 128}
    with pytest.raises(
        CheckpointError, match=r"encoder.conv1.weight: shape \[16, 80, 3\], expected \[16, 128, 3\]"
    ):
        open_checkpoint(write.openai(toy, dims=dims))
