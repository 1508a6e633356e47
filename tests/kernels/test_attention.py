"""whisper2max.attention, pack_keys and pack_values together, against the longhand reference."""

import numpy as np
import pytest
from longhand import attend, bfloat16, int8_rows
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, TensorType

STATE, HEAD_DIM, FRAMES = 96, 48, 75
HEADS = STATE // HEAD_DIM
CPU = DeviceRef.CPU()


FORMATS = (DType.float32, DType.bfloat16, DType.int8)


@pytest.fixture(scope="module")
def attention(compile_graph):
    """Outputs: in float32, in bfloat16, with keys and values in int8."""
    query = TensorType(DType.float32, ["batch", "length", STATE], CPU)
    frames = TensorType(DType.float32, ["audio", FRAMES, STATE], CPU)

    def build(kernel, query, keys, values):
        outputs = []
        for dtype in FORMATS:
            word, scales = 4 // dtype.size_in_bytes, int(dtype != DType.float32)
            shape = ["audio", HEADS, -(-FRAMES // 32), HEAD_DIM // word + scales, 32 * word]
            k = kernel("pack_keys", [keys], TensorType(dtype, shape, CPU), head_dim=HEAD_DIM)
            shape = ["audio", HEADS, -(-HEAD_DIM // 32), -(-FRAMES // word) + scales, 32 * word]
            v = kernel("pack_values", [values], TensorType(dtype, shape, CPU), head_dim=HEAD_DIM)
            outputs.append(kernel("attention", [query, k, v], query.type, head_dim=HEAD_DIM, frames=FRAMES))
        return outputs

    return compile_graph("attention", [query, frames, frames], build)


def run(attention, query, keys, values):
    return [each.to_numpy() for each in attention.execute(*map(Buffer.from_numpy, (query, keys, values)))]


def int8_keys(keys):
    """Every head of every frame in 127ths of its largest magnitude."""
    steps, scales = int8_rows(keys.reshape(*keys.shape[:2], HEADS, HEAD_DIM))
    return (steps * scales).reshape(keys.shape)


def int8_values(values):
    """Every channel in 127ths of its largest magnitude."""
    steps, scales = int8_rows(values.transpose(0, 2, 1))
    return (steps * scales).transpose(0, 2, 1)


def expected(query, keys, values):
    rows = [
        [attend(each, keys[row * len(keys) // len(query)], values[row * len(keys) // len(query)], HEADS) for each in of]
        for row, of in enumerate(query)
    ]
    return np.array(rows)


@pytest.mark.parametrize(
    ("batch", "length", "audios"), [(1, 1, 1), (1, FRAMES, 1), (5, 1, 1), (6, 3, 2), (2, 201, 2), (3, 1, 3)]
)
def test_rows_attend_to_the_audio_of_their_group(attention, batch, length, audios):
    random = np.random.default_rng(batch * 1000 + length)
    query = random.standard_normal((batch, length, STATE), np.float32)
    keys, values = (random.standard_normal((audios, FRAMES, STATE), np.float32) for _ in range(2))
    wide, narrow, int8 = run(attention, query, keys, values)
    np.testing.assert_allclose(wide, expected(query, keys, values), rtol=0, atol=3e-6)
    np.testing.assert_allclose(int8, expected(query, int8_keys(keys), int8_values(values)), rtol=0, atol=1e-4)
    # queries are rounded after they are scaled, weights before they are summed: two more half steps of bfloat16;
    # or all four are whole steps of int16
    exact = expected(query, bfloat16(keys), bfloat16(values))
    assert np.sqrt(np.mean((narrow - exact) ** 2) / np.mean(exact**2)) < 2**-7


def test_large_scores_neither_overflow_nor_vanish(attention):
    random = np.random.default_rng(0)
    query, keys, values = (random.standard_normal((1, rows, STATE), np.float32) * 40 for rows in (3, FRAMES, FRAMES))
    wide, narrow, int8 = run(attention, query, keys, values)
    np.testing.assert_allclose(wide, expected(query, keys, values), rtol=0, atol=2e-3)
    assert np.isfinite(narrow).all() and np.isfinite(int8).all()


def test_silent_frames_in_int8(attention):
    query = np.ones((1, 1, STATE), np.float32)
    keys, values = np.zeros((1, FRAMES, STATE), np.float32), np.zeros((1, FRAMES, STATE), np.float32)
    values[:, :, 1] = -3
    for got in run(attention, query, keys, values):
        np.testing.assert_allclose(got, values[:, :1], rtol=1e-6)


def test_rows_that_cannot_be_shared_out_are_refused(attention):
    query, frames = np.zeros((3, 1, STATE), np.float32), np.zeros((2, FRAMES, STATE), np.float32)
    with pytest.raises(Exception, match="cannot be shared out evenly"):
        run(attention, query, frames, frames)
