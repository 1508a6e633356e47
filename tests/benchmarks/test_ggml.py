"""The ggml file, byte for byte where a reader would stumble."""

import io
import struct

import numpy as np
from ggml import DIMENSIONS, write_header, write_tensor


def written(name, values):
    file = io.BytesIO()
    write_tensor(file, name, values)
    return file.getvalue()


def test_the_header_has_dimensions_filters_and_vocabulary():
    file = io.BytesIO()
    dims = {name: number for number, name in enumerate(DIMENSIONS, start=1)}
    write_header(file, dims, np.arange(6, dtype=np.float32).reshape(2, 3), [b"a", b"\xff\xfe"])
    content = file.getvalue()
    assert content[:4] == b"lmgg"
    assert struct.unpack("<11i", content[4:48]) == (*range(1, 11), 1)
    assert struct.unpack("<2i6f", content[48:80]) == (2, 3, 0, 1, 2, 3, 4, 5)
    assert content[80:] == struct.pack("<3i", 2, 1, 0)[:8] + b"a" + struct.pack("<i", 2) + b"\xff\xfe"


def test_matrices_are_float16_with_sizes_from_the_fastest_axis():
    content = written("decoder.x.weight", np.array([[1.0, 2.0, 3.0]] * 2, np.float32))
    assert struct.unpack("<5i", content[:20]) == (2, 16, 1, 3, 2)
    assert content[20:36] == b"decoder.x.weight"
    assert np.frombuffer(content[36:], "<f2").tolist() == [1, 2, 3, 1, 2, 3]


def test_vectors_and_positions_stay_float32():
    vector = written("decoder.ln.bias", np.array([0.1], np.float32).repeat(2))
    assert struct.unpack("<4i", vector[:16]) == (1, 15, 0, 2)
    positions = written("encoder.positional_embedding", np.ones((2, 3), np.float32))
    assert struct.unpack("<5i", positions[:20]) == (2, 28, 0, 3, 2)
    assert len(positions) == 20 + 28 + 6 * 4


def test_biases_of_convolutions_are_columns():
    bias = written("encoder.conv1.bias", np.array([1.0, 2.0], np.float32))
    assert struct.unpack("<5i", bias[:20]) == (2, 18, 0, 1, 2)
