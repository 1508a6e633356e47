"""whisper2max.cross_attention against the longhand reference."""

import numpy as np
import pytest
from longhand import attend
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, TensorType

STATE, HEAD_DIM = 128, 64


@pytest.fixture(scope="module")
def cross_attention(compile_op):
    def tensor(length):
        return TensorType(DType.float32, ["batch", length, STATE], DeviceRef.CPU())

    types = [tensor("length"), tensor("frames"), tensor("frames")]
    return compile_op("whisper2max.cross_attention", types, types[0], {"head_dim": HEAD_DIM})


@pytest.mark.parametrize(("batch", "length", "frames"), [(1, 1, 1500), (3, 1, 7), (2, 5, 64), (1, 3, 1)])
def test_every_row_attends_to_its_own_frames(cross_attention, batch, length, frames):
    random = np.random.default_rng(batch * 1000 + frames)
    query = random.standard_normal((batch, length, STATE), np.float32)
    key, value = (random.standard_normal((batch, frames, STATE), np.float32) * 3 for _ in range(2))
    (got,) = cross_attention.execute(*(Buffer.from_numpy(each) for each in (query, key, value)))
    for row in range(batch):
        for t in range(length):
            expected = attend(query[row, t], key[row], value[row], STATE // HEAD_DIM)
            np.testing.assert_allclose(got.to_numpy()[row, t], expected, rtol=0, atol=1e-5)


def test_large_scores_do_not_overflow(cross_attention):
    random = np.random.default_rng(0)
    query, key, value = (random.standard_normal((1, rows, STATE), np.float32) * 40 for rows in (1, 9, 9))
    (got,) = cross_attention.execute(*(Buffer.from_numpy(each) for each in (query, key, value)))
    expected = attend(query[0, 0], key[0], value[0], STATE // HEAD_DIM)
    np.testing.assert_allclose(got.to_numpy()[0, 0], expected, rtol=1e-4, atol=1e-3)
