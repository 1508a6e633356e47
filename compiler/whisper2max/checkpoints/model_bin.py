"""CTranslate2's model.bin, front to back.

It is, little-endian: version u32, name of the model kind, its revision u32, count of variables u32; for each its name,
rank u8, sizes u32 each, type u8, byte count u32, bytes; then a count of aliases u32, for each the alias and the name it
stands for. A name is its length with the closing zero as u16, then the bytes and the zero.
"""

import math
import mmap
import struct

import numpy as np

from whisper2max.checkpoints.files import short
from whisper2max.core.errors import CheckpointError

VERSIONS = (4, 5, 6)
KIND = "WhisperSpec"
TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
NUMPY_TYPES = {"bfloat16": np.uint16}
MOST_ENTRIES, MOST_AXES = 1 << 15, 4


def read_variables(content: bytearray | mmap.mmap, where: str) -> dict[str, np.ndarray]:
    """Every variable of a model.bin, aliases resolved, as views of the content; bfloat16 as uint16.

    Raises:
        CheckpointError: the content ends too early, or is not a CTranslate2 Whisper.
    """
    reader = Reader(memoryview(content), where)
    version = reader.unpack("<I", "the version")
    if version not in VERSIONS:
        raise CheckpointError(
            f"{where}: format version {version} is not one of CTranslate2's {', '.join(map(str, VERSIONS))}; "
            "it is not a CTranslate2 model, or an older or newer one. Convert it again from the original "
            "model."
        )
    kind = reader.text("the kind of model")
    if kind != KIND:
        raise CheckpointError(
            f"{where} is a CTranslate2 {short(kind)}, expected {KIND}; other models are not converted."
        )
    reader.unpack("<I", "the revision")
    variables: dict[str, np.ndarray] = {}
    for _ in range(reader.count("variables")):
        name, variable = reader.variable()
        if name in variables:
            raise CheckpointError(f"{where} holds {short(name)} twice; download it again.")
        variables[name] = variable
    for _ in range(reader.count("aliases")):
        alias, original = reader.text("an alias"), reader.text("the name behind an alias")
        if original not in variables or alias in variables:
            raise CheckpointError(
                f"{where}: the alias {short(alias)} of {short(original)} has no meaning; download it again."
            )
        variables[alias] = variables[original]
    if reader.position != len(reader.content):
        raise CheckpointError(
            f"{where} goes on for {len(reader.content) - reader.position} bytes after its last alias; "
            "download it again."
        )
    total = sum(variable.nbytes for variable in variables.values())
    if total > 2 * len(content):
        raise CheckpointError(
            f"{where}: aliases stand for {total:,} bytes, many times the {len(content):,} of the file, and Whisper has "
            "one alias, the projection; download it again."
        )
    return variables


class Reader:
    """Reads a model.bin front to back and says where it ends too early.

    Attributes:
        content: the whole file.
        position: of the next byte to read.
    """

    def __init__(self, content: memoryview, where: str):
        self.content = content
        self.position = 0
        self._where = where

    def take(self, size: int, what: str) -> memoryview:
        """The next bytes.

        Raises:
            CheckpointError: fewer are left.
        """
        end = self.position + size
        if end > len(self.content):
            raise CheckpointError(
                f"{self._where} is truncated: it has {len(self.content)} bytes, and {what} ends at {end}. "
                "Download it again."
            )
        self.position, start = end, self.position
        return self.content[start:end]

    def unpack(self, form: str, what: str) -> int:
        """The next number."""
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def count(self, what: str) -> int:
        """The next count, of entries that the rest of the content has room for and a Whisper has.

        Raises:
            CheckpointError: it is larger.
        """
        count = self.unpack("<I", f"the count of {what}")
        if count > MOST_ENTRIES:
            raise CheckpointError(
                f"{self._where} claims {count:,} {what}; no Whisper has more than {MOST_ENTRIES:,}. Download it again."
            )
        return count

    def text(self, what: str) -> str:
        """The next name."""
        raw = bytes(self.take(self.unpack("<H", what), what))
        if not raw.endswith(b"\0") or not raw[:-1].isascii():
            raise CheckpointError(f"{self._where}: {what} is not a name; this is no CTranslate2 model.bin.")
        return raw[:-1].decode()

    def variable(self) -> tuple[str, np.ndarray]:
        """The next variable and its name."""
        name = self.text("the name of a variable")
        said = short(name)
        rank = self.unpack("<B", said)
        if rank > MOST_AXES:
            raise CheckpointError(
                f"{self._where}: {said} has {rank} axes, and no tensor of a Whisper more than {MOST_AXES}; download it "
                "again."
            )
        shape = tuple(self.unpack("<I", said) for _ in range(rank))
        type_id, n_bytes = self.unpack("<B", said), self.unpack("<I", said)
        if type_id >= len(TYPES):
            raise CheckpointError(f"{self._where}: {said} has the unknown type {type_id}; download it again.")
        dtype = np.dtype(NUMPY_TYPES.get(TYPES[type_id], TYPES[type_id]))
        expected = math.prod(shape) * dtype.itemsize
        if n_bytes != expected or n_bytes == 0:
            raise CheckpointError(
                f"{self._where}: {said} of shape {list(shape)} has {n_bytes} bytes, expected {expected or 'some'}; "
                "download it again."
            )
        return name, np.frombuffer(self.take(n_bytes, said), dtype).reshape(shape)
