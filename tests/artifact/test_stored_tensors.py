"""The table of a safetensors file: read where the library reads it, refused where tensors are not where they belong."""

import json

import pytest
import safetensors.torch
import torch

from whisper2max.artifact.stored_tensors import StoredTensor, read_header
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile

TENSORS = {
    "matrix": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "half": torch.arange(8).reshape(2, 4).to(torch.bfloat16),
    "steps": torch.arange(-4, 4, dtype=torch.int8),
    "sums": torch.arange(5, dtype=torch.int32),
    "scalar": torch.tensor(3.0),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def read(path):
    return read_header(HeldFile(path, ArtifactError))


def write(path, header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_what_the_library_writes_is_read(path):
    safetensors.torch.save_file(TENSORS, path, {"made by": "a test"})
    header = read(path)
    assert header.metadata == {"made by": "a test"}
    content = path.read_bytes()
    for name, tensor in TENSORS.items():
        found = header.tensors[name]
        assert (found.dtype, found.shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        assert content[found.begin : found.end] == tensor.view(-1).view(torch.uint8).numpy().tobytes()


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_a_file_made_by_hand(path):
    write(path, {"a": entry()})
    (tensor,) = read(path).tensors.values()
    assert tensor == StoredTensor("float32", (2,), path.stat().st_size - 8, path.stat().st_size)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ({"a": entry(dtype="F64")}, "a has no dtype, shape and offsets that agree"),
        ({"a": entry(dtype=["F32"])}, "a has no dtype"),
        ({"a": entry(shape=[3])}, "a has no dtype"),
        ({"a": entry(shape=[-1, -2])}, "a has no dtype"),
        ({"a": entry(shape=[True, 2])}, "a has no dtype"),
        ({"a": entry(shape=[2.0])}, "a has no dtype"),
        ({"a": entry(shape=[1] * 9 + [2])}, "a has no dtype"),
        ({"a": entry(shape=[10**400, 10**400])}, "a has no dtype"),
        ({"a": entry(offsets=[-8, 0])}, "a has no dtype"),
        ({"a": entry(offsets=[8, 0])}, "a has no dtype"),
        ({"a": entry(offsets=[0, 8, 16])}, "a has no dtype"),
        ({"a": entry(offsets=[10**30, 10**30 + 8])}, "a begins at 1000000000000000"),
        ({"a": None, "b": 3, "c": []}, "a has no dtype.*; b has no dtype.*; c has no dtype"),
        ({"a": {**entry(), "shape": "ab"}}, "a has no dtype"),
        ({"a": entry(), "b": entry()}, "b begins at .* where the tensor before it ends"),
        ({"a": entry(shape=[1], offsets=[0, 4])}, "the tensors end at .*, and the file at"),
        ({"a": entry(shape=[1], offsets=[4, 8])}, "a begins at .*expected"),
        ({"a": entry("I8", [1], [0, 1]), "b": entry("F32", [1], [1, 5])}, "b begins at .* no place for float32"),
        ({"a": entry(), "__metadata__": {"x": 1}}, "the metadata are not texts by name"),
        ({}, "the tensors end at"),
        ([], "holds a JSON list"),
        (b"{" * 100_000, "header of weights.safetensors is not"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_everything_else_is_refused(path, header, complaint):
    write(path, header)
    with pytest.raises(ArtifactError, match=complaint) as caught:
        read(path)
    assert str(caught.value).startswith(("weights.safetensors ", "the header of weights.safetensors "))


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 100, (1 << 62).to_bytes(8, "little") + b"{}"])
def test_a_header_beyond_the_end(path, content):
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="it ends within its header"):
        read(path)


def test_a_header_that_is_longer_than_any(path):
    path.write_bytes((1 << 30).to_bytes(8, "little"))
    with open(path, "r+b") as file:
        file.truncate(2 << 30)
    with pytest.raises(ArtifactError, match="has a header of 1,073,741,824 bytes"):
        read(path)
    path.unlink()
