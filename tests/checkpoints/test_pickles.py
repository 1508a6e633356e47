"""Files of torch.save, read without torch's own reader: the same values, and nothing else."""

import collections
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from whisper2max.checkpoints.pickles import MOST_PICKLED, PickledFile
from whisper2max.core.errors import CheckpointError
from whisper2max.core.held import HeldFile


def opened(path) -> PickledFile:
    return PickledFile(HeldFile(path, CheckpointError))


LAYOUTS = pytest.mark.parametrize("former", [False, True], ids=["archive", "former layout"])
TENSORS = {
    "float32": torch.arange(12.0).reshape(3, 4),
    "float16": torch.arange(5.0).half(),
    "bfloat16": torch.arange(7.0).bfloat16(),
    "float64": torch.arange(3.0).double(),
    "int64": torch.arange(6).reshape(1, 2, 3),
    "int8": torch.arange(3).to(torch.int8),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "transposed": torch.arange(12.0).reshape(3, 4).t(),
    "a part": torch.arange(20.0)[3:11:2],
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@LAYOUTS
def test_every_tensor_is_what_torch_reads(tmp_path, former):
    state = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Conv1d(2, 2, 3)).state_dict()
    content = {"state": collections.OrderedDict(TENSORS), "module": state, "tied": [TENSORS["float32"]] * 2}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not former)
    theirs = torch.load(tmp_path / "a.pt", weights_only=True)
    file = opened(tmp_path / "a.pt")
    for part in ("state", "module"):
        assert list(file.content[part]) == list(theirs[part])
        for name, stored in file.content[part].items():
            ours = file.tensor(stored)
            assert ours.dtype == theirs[part][name].dtype
            assert torch.equal(ours, theirs[part][name]), name
    first, second = file.content["tied"]
    assert first == second


@LAYOUTS
def test_plain_values_are_read(tmp_path, former):
    numbers = [1, -5, 300, 2**31, 2**80, 1.5, None, True, False]
    content = {"a": numbers, "b": {1: (), 2.5: (1,), None: (1, 2, 3, 4)}, "": "ü"}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not former)
    assert opened(tmp_path / "a.pt").content == content


def test_other_protocols_of_pickle_are_read(tmp_path):
    for protocol in (2, 4):
        torch.save({"a": torch.ones(2)}, tmp_path / "a.pt", pickle_protocol=protocol)
        file = opened(tmp_path / "a.pt")
        assert torch.equal(file.tensor(file.content["a"]), torch.ones(2))


class Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class HasState:
    pass


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Calls(print, "it ran"), "builtins.print|__builtin__.print"),
        (Calls(getattr, collections, "abc"), "getattr|module"),
        (Calls(np.ones, 3), "numpy"),
        (HasState(), "HasState"),
        ({(1, 2): 3}, "keys are not text or numbers"),
        ({1, 2}, "set|opcode"),
        (bytearray(3), "bytearray"),
        (torch.float16, "torch.float16"),
        (torch.ones(3).to_sparse(), "_rebuild_sparse_tensor"),
    ],
    ids=lambda value: str(type(value).__name__),
)
@LAYOUTS
def test_anything_else_is_named_and_refused(tmp_path, content, named, former, capfd):
    if isinstance(content, Calls) and content.function is getattr:
        content = Calls(getattr, "abc", "upper")
    torch.save({"a": content}, tmp_path / "a.pt", _use_new_zipfile_serialization=not former)
    with pytest.raises(CheckpointError, match=rf"besides tensors \(.*({named}).*\).*not safe"):
        opened(tmp_path / "a.pt")
    assert "it ran" not in "".join(capfd.readouterr())


def data_pkl(path, content: bytes, *others: tuple[str, bytes], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", content)
        for name, data in others:
            archive.writestr(name, data)
    return path


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ%btQ"


def tensor_of(count: int, offset: bytes, shape: bytes, strides: bytes) -> bytes:
    storage = STORAGE.replace(b"%b", struct.pack("<i", count))
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"\x89Nt\x52."


FOUR = ("a/data/0", struct.pack("<4f", 1, 2, 3, 4))


def test_a_tensor_is_where_it_says(tmp_path):
    file = opened(data_pkl(tmp_path / "a.pt", tensor_of(4, b"K\x01", b"K\x03\x85", b"K\x01\x85"), FOUR))
    assert file.tensor(file.content).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides"),
    [
        (4, b"K\x01", b"K\x04\x85", b"K\x01\x85"),
        (4, b"K\x00", b"K\x05\x85", b"K\x00\x85"),
        (4, b"K\x00", b"K\x02\x85", b"K\x04\x85"),
        (5, b"K\x00", b"K\x02\x85", b"K\x01\x85"),
        (2**31 - 1, b"K\x00", b"J\xff\xff\xff\x7f\x85", b"K\x01\x85"),
        (4, b"K\x00", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"K\x00K\x00\x86"),
    ],
    ids=["beyond its end", "expanded", "wide steps", "short storage", "huge storage", "overflow"],
)
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, count, offset, shape, strides):
    file = opened(data_pkl(tmp_path / "a.pt", tensor_of(count, offset, shape, strides), FOUR))
    with pytest.raises(CheckpointError, match="does not lie in its 16 bytes"):
        file.tensor(file.content)


MANY = b"\x80\x02" + b"}" * (MOST_PICKLED + 1) + b"."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated or not"),
        (b"\x80\x02", "truncated or not"),
        (b".", "truncated or not"),
        (b"\x80\x02h\x07.", "truncated or not"),
        (b"\x80\x02K\x01R.", "truncated or not"),
        (b"\x80\x02}K\x01K\x02K\x03u.", "truncated or not"),
        (b"\x80\x02K\x01a.", "truncated or not"),
        (b"\x80\x02\x86.", "truncated or not"),
        (b"\x80\x02]K\x01s.", "truncated or not"),
        (b"\x80\x02X\xff\xff\xff\x7f.", "truncated or not"),
        (b"\x80\x02r\xff\xff\xff\xff.", "truncated or not"),
        (b"\x80\x02K\x01r\xff\xff\xff\xff.", None),
        (tensor_of(-1, b"K\x00", b"K\x02\x85", b"K\x01\x85"), "storage without"),
        (tensor_of(4, b"K\x00", b"]", b"K\x01\x85"), "without shape"),
        (MANY, "takes 4,194,308 bytes, so it holds far more than weights"),
    ],
    ids=range(15),
)
def test_a_pickle_that_is_none_is_refused(tmp_path, content, message):
    path = data_pkl(tmp_path / "a.pt", content, FOUR)
    if message is None:
        assert opened(path).content == 1
        return
    with pytest.raises(CheckpointError, match=f"a.pt cannot be read: .*{message}.*get it again"):
        opened(path)


def test_archives_that_torch_does_not_write_are_refused(tmp_path):
    plain = pickle.dumps({}, protocol=2)
    many = [(f"a/{number:0200}", b"") for number in range(20_000)]
    for message, path in (
        ("compressed or encrypted", data_pkl(tmp_path / "0.pt", plain, compression=zipfile.ZIP_DEFLATED)),
        ("big-endian", data_pkl(tmp_path / "1.pt", plain, ("a/byteorder", b"big"))),
        ("2 entries are called data.pkl", data_pkl(tmp_path / "2.pt", plain, ("b/data.pkl", plain))),
        ("more entries than tensors", data_pkl(tmp_path / "3.pt", plain, *many)),
    ):
        with pytest.raises(CheckpointError, match=message):
            opened(path)


def test_an_entry_that_reaches_beyond_the_file_is_refused(tmp_path):
    path = data_pkl(tmp_path / "a.pt", pickle.dumps({}, protocol=2), FOUR)
    content = bytearray(path.read_bytes())
    for at in range(len(content) - 4):
        if content[at : at + 4] == b"PK\x01\x02":
            content[at + 20 : at + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not lie in the file"):
        opened(path)
