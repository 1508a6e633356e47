"""Files of torch.save, read as data: a pickle is a program, and this is a machine that knows a part of its language.

The part is what state dicts need: text, numbers, lists, tuples and dictionaries of them, and tensors. Nothing is
imported, called or made by name, so nothing that a file brings along can run. What torch.save has written since 2020 is
a zip archive, stored and not compressed; what it wrote before is pickles one after the other, then bytes.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import torch

from whisper2max.checkpoints.files import short
from whisper2max.checkpoints.stored import MOST_BYTES, tensor_at
from whisper2max.core.errors import CheckpointError
from whisper2max.core.held import HeldFile

# Of a pickle, and of an archive's directory; those of large-v3 have 200 kB, and a trainer's some times as much.
MOST_PICKLED = 4 << 20
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
ITEM_TYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
KNOWN_GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
KNOWN_GLOBALS |= {f"torch {name}" for name in ITEM_TYPES}


class Storage(NamedTuple):
    """Bytes that tensors are made of: their key in the file, type and number of items."""

    key: str
    dtype: torch.dtype
    count: int


class StoredTensor(NamedTuple):
    """A tensor as a file describes it: its storage, first item, shape and strides."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Global(NamedTuple):
    """A name that a pickle asks for."""

    name: str


class PickledFile:
    """A file of torch.save.

    Attributes:
        content: what was saved: plain values, with `StoredTensor` in the place of tensors.
        size: bytes of the file.
    """

    def __init__(self, file: HeldFile):
        """Read the structure; no tensor is read.

        Raises:
            CheckpointError: the file is damaged, or holds more than tensors and plain values.
        """
        self.size = file.size
        self._file = file
        if file.size > MOST_BYTES:
            raise self._fault(f"it has {file.size:,} bytes, and no Whisper has more than {MOST_BYTES:,}")
        try:
            self.content, self._begins = self._read_zip() if file.read_at(0, 2) == b"PK" else self._read_former()
        except _Unknown as unknown:
            raise CheckpointError(
                f"{file.path} cannot be read: it holds Python objects besides tensors ({unknown}), and running "
                "what a file brings along is not safe. Save it again as a state dict, or as safetensors."
            ) from unknown
        except _MALFORMED as error:
            reason = f"{type(error).__name__}: {str(error)[:120]}"
            raise self._fault(f"it is truncated or not a file that torch.save wrote ({reason})") from error
        self._map = file.map()

    def tensor(self, stored: StoredTensor) -> torch.Tensor:
        """The tensor, in the memory that the file is mapped to.

        Raises:
            CheckpointError: it reaches beyond its storage, or takes more bytes than that has.
        """
        storage = stored.storage
        begin, size = self._begins.get(storage.key, (0, 0))
        items = math.prod(stored.shape)
        last = stored.offset + sum((n - 1) * step for n, step in zip(stored.shape, stored.strides, strict=True))
        if storage.count * storage.dtype.itemsize > size or items > storage.count or (items and last >= storage.count):
            raise self._fault(
                f"a tensor of shape {short(list(stored.shape))} does not lie in its {size:,} bytes, which is damage or "
                "an expanded tensor"
            )
        if items == 0:
            return torch.empty(0, dtype=storage.dtype)
        flat = tensor_at(self._map, storage.dtype, (storage.count,), begin)
        return flat.as_strided(stored.shape, stored.strides, stored.offset)

    def _read_zip(self) -> tuple[object, dict[str, tuple[int, int]]]:
        with zipfile.ZipFile(_Bounded(self._file)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} entries are called data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        packed = [info.filename for info in entries.values() if info.compress_type or info.flag_bits & 1]
        if packed:
            raise self._fault(f"{short(packed[0])} in it is compressed or encrypted, which torch.save never does")
        places = {name: self._place(info) for name, info in entries.items()}
        order = entries.get(f"{folder}byteorder")
        if order is not None and self._file.read_at(*places[order.filename]) != b"little":
            raise self._fault("its numbers are big-endian")
        begin, size = places[pickles[0]]
        if size > MOST_PICKLED:
            raise self._fault(f"the structure in it takes {size:,} bytes, so it holds far more than weights")
        content = _Machine(_storage).run(io.BytesIO(self._file.read_at(begin, size)))
        data = f"{folder}data/"
        return content, {name.removeprefix(data): place for name, place in places.items() if name.startswith(data)}

    def _place(self, info: zipfile.ZipInfo) -> tuple[int, int]:
        """First byte and length of an entry."""
        header = self._file.read_at(info.header_offset, 30)
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        begin = info.header_offset + 30 + name_bytes + extra_bytes
        if header[:4] != b"PK\3\4" or info.header_offset < 0 or begin + info.file_size > self.size:
            raise ValueError(f"an entry of {info.file_size} bytes does not lie in the file")
        return begin, info.file_size

    def _read_former(self) -> tuple[object, dict[str, tuple[int, int]]]:
        stream = io.BytesIO(self._file.read_at(0, MOST_PICKLED))
        storages: dict[str, Storage] = {}

        def remembered(persistent: object) -> Storage:
            storage = _storage(persistent)
            return storages.setdefault(storage.key, storage)

        machine = _Machine(remembered)
        if machine.run(stream) != LEGACY_MAGIC or machine.run(stream) != LEGACY_PROTOCOL:
            raise ValueError("it does not begin as one")
        system = machine.run(stream)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise ValueError("its numbers are big-endian")
        content, keys = machine.run(stream), machine.run(stream)
        if not isinstance(keys, list) or {*map(type, keys)} - {str} or sorted(keys) != sorted(storages):
            raise ValueError("the list of its storages is not that of its tensors")
        places, at = {}, stream.tell()
        for key in keys:
            size = storages[key].count * storages[key].dtype.itemsize
            if self._file.read_at(at, 8) != struct.pack("<q", storages[key].count) or at + 8 + size > self.size:
                raise ValueError("it ends too early")
            places[key] = at + 8, size
            at += 8 + size
        return content, places

    def _fault(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._file.path} cannot be read: {what}; get it again from its source.")


class _Unknown(Exception):
    """A pickle asks for something that is neither a tensor nor a plain value."""


_MALFORMED = (ValueError, IndexError, KeyError, TypeError, OverflowError, NotImplementedError, EOFError, OSError)
_MALFORMED += (struct.error, zipfile.BadZipFile)


class _Bounded(io.RawIOBase):
    """A held file for zipfile, which reads an archive's directory in one piece."""

    def __init__(self, file: HeldFile):
        self._file, self._at = file, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        if size > MOST_PICKLED or (size < 0 and self._file.size - self._at > MOST_PICKLED):
            raise ValueError("it has more entries than tensors")
        content = self._file.read_at(self._at, MOST_PICKLED if size < 0 else size)
        self._at += len(content)
        return content


class _Machine:
    """Runs the opcodes that state dicts are written with."""

    def __init__(self, load_storage: Callable[[object], Storage]):
        self._load_storage = load_storage

    def run(self, stream: io.BytesIO) -> object:
        """The value of the pickle that begins at the stream's position, which is left at its end."""
        stack: list = []
        marks: list[list] = []
        memo: dict[int, object] = {}
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name in _PUSH_ARGUMENT:
                stack.append(argument)
            elif name in _PUSH:
                stack.append(_PUSH[name]())
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "MARK":
                marks.append(stack)
                stack = []
            elif name in _TAKES_MARK:
                items, stack = stack, marks.pop()
                _TAKES_MARK[name](stack, items)
            elif name in _TUPLES:
                count = _TUPLES[name]
                if len(stack) < count:
                    raise ValueError("a tuple lacks items")
                stack[len(stack) - count :] = [tuple(stack[len(stack) - count :])]
            elif name == "APPEND":
                item = stack.pop()
                _append(stack, [item])
            elif name == "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack, [key, value])
            elif name == "GLOBAL":
                stack.append(_global(argument))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_global(f"{module} {attribute}" if type(module) is type(attribute) is str else "?"))
            elif name == "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            elif name == "BINPERSID":
                stack.append(self._load_storage(stack.pop()))
            elif name == "BUILD":
                # a state dict's `_metadata`, the versions of its modules
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise _Unknown("an object with a state of its own")
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise _Unknown(f"opcode {name}")
        raise ValueError("it has no end")


_PUSH_ARGUMENT = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_PUSH = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _append(stack: list, items: list) -> None:
    if type(stack[-1]) is not list:
        raise TypeError("items of no list")
    stack[-1].extend(items)


def _set_items(stack: list, items: list) -> None:
    if type(stack[-1]) is not dict or len(items) % 2:
        raise TypeError("items of no dictionary")
    keys = items[::2]
    # the hash of nested tuples can take forever
    if {*map(type, keys)} - {str, int, float, bool, type(None)}:
        raise _Unknown("a dictionary whose keys are not text or numbers")
    stack[-1].update(zip(keys, items[1::2], strict=True))


_TAKES_MARK = {
    "APPENDS": _append,
    "SETITEMS": _set_items,
    "TUPLE": lambda stack, items: stack.append(tuple(items)),
    "LIST": lambda stack, items: stack.append(items),
    "DICT": lambda stack, items: stack.append({}) or _set_items(stack, items),
}


def _global(name: str) -> Global:
    if name not in KNOWN_GLOBALS:
        raise _Unknown(short(name.replace(" ", ".")))
    return Global(name)


def _call(function: object, arguments: object) -> object:
    if type(function) is not Global or type(arguments) is not tuple:
        raise TypeError("a call of no function")
    if function.name == "collections OrderedDict" and not arguments:
        return {}
    if function.name == "torch._utils _rebuild_parameter" and arguments and type(arguments[0]) is StoredTensor:
        return arguments[0]
    if function.name == "torch._utils _rebuild_tensor_v2" and len(arguments) >= 4:
        storage, offset, shape, strides = arguments[:4]
        sizes = (offset, *shape, *strides) if type(shape) is type(strides) is tuple else (-1,)
        if (
            type(storage) is Storage
            and len(shape) == len(strides) <= 8
            and all(type(size) is int and 0 <= size < 1 << 62 for size in sizes)
        ):
            return StoredTensor(storage, offset, shape, strides)
    raise TypeError("a tensor without shape and storage")


def _storage(persistent: object) -> Storage:
    if type(persistent) is tuple and len(persistent) in (5, 6) and persistent[0] == "storage":
        _, kind, key, _, count, *view = persistent
        if view not in ([], [None]):
            raise TypeError("a storage inside of another")
        dtype = ITEM_TYPES.get(kind.name.removeprefix("torch ")) if type(kind) is Global else None
        if dtype is not None and type(key) is str and type(count) is int and 0 <= count < 1 << 62:
            return Storage(key, dtype, count)
    raise TypeError("a storage without type and size")
