"""whisper2max.cached_attention against the longhand reference, and what it leaves in the caches."""

import numpy as np
import pytest
from longhand import attend
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType

LAYERS, LAYER, CONTEXT, STATE, HEAD_DIM = 2, 1, 12, 128, 64


@pytest.fixture(scope="module")
def cached_attention(compile_graph):
    row = TensorType(DType.float32, ["batch", "length", STATE], DeviceRef.CPU())
    positions = TensorType(DType.int64, ["starts"], DeviceRef.CPU())
    cache = BufferType(DType.float32, [LAYERS, "batch", CONTEXT, STATE], DeviceRef.CPU())
    types = [row, row, row, positions, cache, cache]

    def build(kernel, *values):
        return [kernel("cached_attention", values, row, in_place=True, layer=LAYER, head_dim=HEAD_DIM)]

    return compile_graph("cached_attention", types, build)


def run(model, batch, length, positions, caches, seed=0):
    random = np.random.default_rng(seed)
    query, key, value = (random.standard_normal((batch, length, STATE), np.float32) for _ in range(3))
    inputs = [query, key, value, np.array(positions, np.int64), *caches]
    buffers = [Buffer.from_numpy(each) for each in inputs]
    (got,) = model.execute(*buffers)
    return query, key, value, got.to_numpy(), [buffer.to_numpy() for buffer in buffers[4:]]


@pytest.mark.parametrize(
    ("length", "positions"), [(1, [0]), (1, [11, 3, 0, 7]), (5, [0, 0]), (4, [8, 1, 5]), (12, [0])]
)
def test_rows_at_their_own_positions(cached_attention, length, positions):
    batch = len(positions)
    before = [np.random.default_rng(9 + i).standard_normal((LAYERS, batch, CONTEXT, STATE), np.float32) for i in (0, 1)]
    query, key, value, got, after = run(cached_attention, batch, length, positions, [each.copy() for each in before])
    for cache, old, new in zip(after, before, (key, value), strict=True):
        expected = old.copy()
        for row, position in enumerate(positions):
            expected[LAYER, row, position : position + length] = new[row]
        np.testing.assert_array_equal(cache, expected)
    for row, position in enumerate(positions):
        for t in range(length):
            seen = position + t + 1
            expected = attend(
                query[row, t], after[0][LAYER, row, :seen], after[1][LAYER, row, :seen], STATE // HEAD_DIM
            )
            np.testing.assert_allclose(got[row, t], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("length", "positions"), [(1, [12]), (1, [-1]), (5, [0, 8])])
def test_a_position_outside_the_context_is_refused(cached_attention, length, positions):
    caches = [np.zeros((LAYERS, len(positions), CONTEXT, STATE), np.float32) for _ in range(2)]
    with pytest.raises(Exception, match="position lies outside the text context"):
        run(cached_attention, len(positions), length, positions, caches)


def test_one_position_serves_all_rows(cached_attention):
    caches = [np.zeros((LAYERS, 3, CONTEXT, STATE), np.float32) for _ in range(2)]
    query, key, value, got, _ = run(cached_attention, 3, 4, [0], caches)
    for row in range(3):
        for t in range(4):
            seen = attend(query[row, t], key[row, : t + 1], value[row, : t + 1], STATE // HEAD_DIM)
            np.testing.assert_allclose(got[row, t], seen, rtol=0, atol=1e-5)


def test_positions_of_another_batch_are_refused(cached_attention):
    caches = [np.zeros((LAYERS, 3, CONTEXT, STATE), np.float32) for _ in range(2)]
    with pytest.raises(Exception, match="positions are given for another number of rows"):
        run(cached_attention, 3, 1, [0, 1], caches)
