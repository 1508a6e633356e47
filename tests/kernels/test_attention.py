"""The attention kernels with what packs keys and values for them, against the longhand reference."""

import numpy as np
import pytest
from audio_pool import UNTOUCHED
from longhand import attend, bfloat16, int8_rows
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, TensorType

STATE, HEAD_DIM, FRAMES = 96, 48, 75
HEADS = STATE // HEAD_DIM
CPU = DeviceRef.CPU()


FORMATS = (DType.float32, DType.bfloat16, DType.int8)
LAYERS, LAYER = 2, 1


def head_shapes(dtype):
    """Of the packed keys and values of one head."""
    word, scales = 4 // dtype.size_in_bytes, int(dtype != DType.float32)
    keys = [-(-FRAMES // 32), HEAD_DIM // word + scales, 32 * word]
    return keys, [-(-HEAD_DIM // 32), -(-FRAMES // word) + scales, 32 * word]


@pytest.fixture(scope="module")
def attention(compile_graph):
    """Outputs: in float32, in bfloat16, with keys and values in int8."""
    query = TensorType(DType.float32, ["queried", "length", STATE], CPU)
    frames = TensorType(DType.float32, ["audios", FRAMES, STATE], CPU)

    def build(kernel, query, keys, values):
        outputs = []
        for dtype in FORMATS:
            of_keys, of_values = (TensorType(dtype, ["audios", HEADS, *shape], CPU) for shape in head_shapes(dtype))
            k = kernel("pack_keys", [keys], of_keys, head_dim=HEAD_DIM)
            v = kernel("pack_values", [values], of_values, head_dim=HEAD_DIM)
            outputs.append(kernel("attention", [query, k, v], query.type, head_dim=HEAD_DIM, frames=FRAMES))
        return outputs

    return compile_graph("attention", [query, frames, frames], build)


@pytest.fixture(scope="module")
def audio_attention(compile_graph, audio_pool):
    """The same of pools, and the pools: run(query, keys, values, places, audios, layer)."""
    types = [
        TensorType(DType.float32, ["rows", "length", STATE], CPU),
        TensorType(DType.int64, [1], CPU),
        TensorType(DType.int64, ["heard"], CPU),
    ]
    pools = [audio_pool(dtype, FRAMES, LAYERS, HEADS, HEAD_DIM) for dtype in FORMATS]

    def build(kernel, query, layer, audios, *pools):
        parameters = {"head_dim": HEAD_DIM, "frames": FRAMES}
        pairs = zip(pools[::2], pools[1::2], strict=True)
        return [kernel("audio_attention", [query, layer, audios, *pair], query.type, **parameters) for pair in pairs]

    graph = compile_graph("audio_attention", [*types, *(kind for pool in pools for kind in pool.types)], build)

    def run(query, keys, values, places, audios, layer=LAYER):
        stored = [each for pool in pools for each in pool.filled(4, keys, values, layer, places)]
        given = [query, np.array([layer], np.int64), np.array(audios, np.int64)]
        return [each.to_numpy() for each in graph.execute(*map(Buffer.from_numpy, given), *stored)], stored

    return run


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


def expected(query, keys, values, audios=None):
    """Each row of queries attends to the recording of its number, or to that of `audios`."""
    heard = range(len(query)) if audios is None else audios
    pairs = zip(query, heard, strict=True)
    return np.array([[attend(each, keys[audio], values[audio], HEADS) for each in of] for of, audio in pairs])


def check(outputs, query, keys, values, audios=None):
    wide, narrow, int8 = outputs
    np.testing.assert_allclose(wide, expected(query, keys, values, audios), rtol=0, atol=3e-6)
    stored = int8_keys(keys), int8_values(values)
    np.testing.assert_allclose(int8, expected(query, *stored, audios), rtol=0, atol=1e-4)
    # queries are rounded after they are scaled, weights before they are summed: two more half steps of bfloat16;
    # or all four are whole steps of int16
    exact = expected(query, bfloat16(keys), bfloat16(values), audios)
    assert np.sqrt(np.mean((narrow - exact) ** 2) / np.mean(exact**2)) < 2**-7


@pytest.mark.parametrize(("audios", "length"), [(1, 1), (1, FRAMES), (5, 1), (2, 3), (2, 201)])
def test_queries_attend_to_their_recording(attention, audios, length):
    random = np.random.default_rng(audios * 1000 + length)
    query = random.standard_normal((audios, length, STATE), np.float32)
    keys, values = (random.standard_normal((audios, FRAMES, STATE), np.float32) for _ in range(2))
    check(run(attention, query, keys, values), query, keys, values)


@pytest.mark.parametrize(
    ("audios", "length"),
    [([0], 1), ([1, 1, 1, 1, 1], 1), ([2, 0, 0, 1], 1), ([1, 0, 1], 3), ([0, 0, 2], 201), (range(3), 1)],
)
def test_rows_attend_to_the_recording_that_they_name(audio_attention, audios, length):
    random = np.random.default_rng(length)
    query = random.standard_normal((len(audios), length, STATE), np.float32)
    keys, values = (random.standard_normal((3, FRAMES, STATE), np.float32) for _ in range(2))
    places = np.array([3, 0, 2])
    outputs, _ = audio_attention(query, keys, values, places, places[list(audios)])
    check(outputs, query, keys, values, audios)


def test_a_recording_is_stored_in_its_place_alone(audio_attention):
    random = np.random.default_rng(0)
    query, keys, values = (random.standard_normal((1, rows, STATE), np.float32) for rows in (1, FRAMES, FRAMES))
    _, pools = audio_attention(query, keys, values, [2], [2])
    for pool in pools:
        content = pool.view(DType.uint8, (pool.num_elements * pool.dtype.size_in_bytes,)).to_numpy()
        touched = (content != UNTOUCHED).reshape(4, LAYERS, -1).any(-1)
        assert touched.tolist() == [[False, False], [False, False], [False, True], [False, False]]


@pytest.mark.parametrize(
    ("places", "audios", "layer", "message"),
    [
        ([4], [0], LAYER, "a place lies outside of the pool"),
        ([-1], [0], LAYER, "a place lies outside of the pool"),
        ([0, 1], [0], LAYER, "places of other recordings"),
        ([0], [4], LAYER, "a row hears an audio that the pool does not hold"),
        ([0], [-1], LAYER, "a row hears an audio that the pool does not hold"),
        ([0], [0, 0], LAYER, "audios are given for another number of rows"),
        ([0], [0], LAYERS, "holds other layers"),
    ],
)
def test_what_the_pool_does_not_hold_is_refused(audio_attention, places, audios, layer, message):
    query, frames = np.zeros((1, 1, STATE), np.float32), np.zeros((1, FRAMES, STATE), np.float32)
    with pytest.raises(Exception, match=message):
        audio_attention(query, frames, frames, places, audios, layer)


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


def test_queries_of_another_number_of_recordings_are_refused(attention):
    query, frames = np.zeros((3, 1, STATE), np.float32), np.zeros((2, FRAMES, STATE), np.float32)
    with pytest.raises(Exception, match="of another number of audios than the queries"):
        run(attention, query, frames, frames)
