"""What is hashed is what is read: a checkpoint's weights do not change between opening and the end of its use."""

import os

import pytest
import torch

from whisper2max.checkpoints import huggingface, open_checkpoint
from whisper2max.checkpoints.files import MOST_NESTED, read_json
from whisper2max.core.errors import CheckpointError


def weights_of(path):
    names = ("pytorch_model.bin", "model.safetensors", "model-00002-of-00003.safetensors", "model.bin")
    return path if path.is_file() else next(path / name for name in names if (path / name).exists())


SOURCES = {
    "openai": lambda write, toy: write.openai(toy, torch.float32),
    "safetensors": lambda write, toy: write.huggingface(toy),
    "shards": lambda write, toy: write.huggingface(toy, shards=3),
    "pickle": lambda write, toy: write.huggingface(toy, pickle=True),
    "ctranslate2": lambda write, toy: write.ctranslate2(toy, torch.float32),
}


def write_into(path):
    """A value of the last tensor becomes another; the file is the same, with the same times where that can be had."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(-4000 if path.suffix != ".bin" else before.st_size // 2, os.SEEK_END if path.suffix != ".bin" else 0)
        file.write(b"\x01\x02\x03\x04")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path):
    content = path.read_bytes()
    path.rename(path.with_suffix(".old"))
    path.write_bytes(content)


@pytest.mark.parametrize("change", [write_into, replace])
@pytest.mark.parametrize("source", SOURCES)
def test_weights_that_change_while_they_are_used_are_refused(toy, write, source, change):
    path = SOURCES[source](write, toy)
    checkpoint = open_checkpoint(path)
    checkpoint.require_unchanged()
    change(weights_of(path))
    with pytest.raises(CheckpointError, match="was changed while it was in use"):
        checkpoint.require_unchanged()


@pytest.mark.parametrize("source", ["safetensors", "pickle"])
def test_weights_that_change_while_they_are_opened_are_refused(toy, write, monkeypatch, source):
    path = SOURCES[source](write, toy)
    original = huggingface.read_tensors

    def read_tensors(files):
        tensors = original(files)
        write_into(weights_of(path))
        return tensors

    monkeypatch.setattr(huggingface, "read_tensors", read_tensors)
    with pytest.raises(CheckpointError, match="was changed while it was in use"):
        open_checkpoint(path)


def test_json_is_nested_as_deep_as_any_configuration_and_no_deeper(tmp_path):
    path = tmp_path / "config.json"
    for depth, fits in ((MOST_NESTED, True), (MOST_NESTED + 1, False)):
        path.write_text('{"a":' * depth + "1" + "}" * depth)
        if fits:
            read_json(path)
            continue
        with pytest.raises(CheckpointError, match="nested too deeply"):
            read_json(path)
