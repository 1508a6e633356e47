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
    """run(length, positions, slots, caches, layer) -> query, key, value [rows, length, state] and the result."""
    row = TensorType(DType.float32, ["rows", "length", STATE], DeviceRef.CPU())
    layer = TensorType(DType.int64, [1], DeviceRef.CPU())
    positions = TensorType(DType.int64, ["starts"], DeviceRef.CPU())
    slots = TensorType(DType.int32, ["named", "context"], DeviceRef.CPU())
    caches = [BufferType(DType.float32, [n, LAYERS, CONTEXT, STATE], DeviceRef.CPU()) for n in ("slots", "others")]

    def build(kernel, *values):
        return [kernel("cached_attention", values, row, in_place=True, head_dim=HEAD_DIM)]

    model = compile_graph("cached_attention", [row, row, row, layer, positions, slots, *caches], build)

    def run(length, positions, slots, caches, layer=LAYER):
        random = np.random.default_rng(length)
        shape = len(slots), length, STATE
        query, key, value = (random.standard_normal(shape, np.float32) for _ in range(3))
        given = [query, key, value, np.array([layer]), np.array(positions, np.int64), np.array(slots, np.int32)]
        (got,) = model.execute(*(Buffer.from_numpy(each) for each in (*given, *caches)))
        return query, key, value, got.to_numpy()

    return run


def random_caches(slots):
    """Keys and values of so many slots."""
    random = np.random.default_rng(9)
    return [random.standard_normal((slots, LAYERS, CONTEXT, STATE), np.float32) for _ in range(2)]


def own_slots(rows):
    """Every row in the slot of its number."""
    return np.repeat(np.arange(rows)[:, None], CONTEXT, axis=1)


def check(run, length, positions, slots, n_slots):
    """The new tokens are where the rows name them and nowhere else, and each attends to what its row names."""
    before = random_caches(n_slots)
    after = [each.copy() for each in before]
    query, key, value, got = run(length, positions, slots, after)
    for cache, old, new in zip(after, before, (key, value), strict=True):
        expected = old.copy()
        for row, position in enumerate(positions):
            for t in range(length):
                expected[slots[row][position + t], LAYER, position + t] = new[row, t]
        np.testing.assert_array_equal(cache, expected)
    for row, position in enumerate(positions):
        for t in range(length):
            seen = range(position + t + 1)
            keys, values = (np.array([cache[slots[row][p], LAYER, p] for p in seen]) for cache in after)
            expected = attend(query[row, t], keys, values, STATE // HEAD_DIM)
            np.testing.assert_allclose(got[row, t], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("length", "positions"), [(1, [0]), (1, [11, 3, 0, 7]), (5, [0, 0]), (4, [8, 1, 5]), (12, [0])]
)
def test_rows_at_their_own_positions(cached_attention, length, positions):
    check(cached_attention, length, positions, own_slots(len(positions)), len(positions))


@pytest.mark.parametrize("length", [1, 4])
def test_rows_that_share_what_they_begin_with(cached_attention, length):
    slots = own_slots(3) + 1
    slots[:, :6] = 0  # a prompt in a slot of no row
    slots[2, 6:8] = 1  # and two more positions of the first row
    check(cached_attention, length, [6, 6, 8], slots, 5)


@pytest.mark.parametrize("seed", range(5))
def test_rows_in_any_slots(cached_attention, seed):
    random = np.random.default_rng(seed)
    slots = random.integers(0, 7, (4, CONTEXT))
    positions = random.integers(0, CONTEXT, 4)
    slots[np.arange(4), positions] = random.permutation(7)[:4]  # no two rows write to the same place
    for row, position in enumerate(positions):
        # nor reads one what another writes
        slots[row, :position] = random.choice(np.setdiff1d(np.arange(7), slots[np.arange(4), positions]), position)
    check(cached_attention, 1, positions, slots, 7)


@pytest.mark.parametrize(("length", "positions"), [(1, [12]), (1, [-1]), (5, [0, 8])])
def test_a_position_outside_the_context_is_refused(cached_attention, length, positions):
    with pytest.raises(Exception, match="position lies outside the text context"):
        cached_attention(length, positions, own_slots(len(positions)), random_caches(len(positions)))


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_slot_that_is_not_there_is_refused_where_it_is_read(cached_attention, slot):
    slots = own_slots(2)
    slots[1, 5] = slot
    cached_attention(1, [4, 4], slots, random_caches(2))
    with pytest.raises(Exception, match="names a slot that the caches do not hold"):
        cached_attention(1, [4, 5], slots, random_caches(2))


@pytest.mark.parametrize("layer", [-1, LAYERS])
def test_a_layer_that_the_caches_have_not_is_refused(cached_attention, layer):
    with pytest.raises(Exception, match="the caches hold fewer layers"):
        cached_attention(1, [0], own_slots(1), random_caches(1), layer)


@pytest.mark.parametrize(("positions", "slots"), [([0, 1], own_slots(3)), ([0], own_slots(1)[:, :5])])
def test_positions_or_slots_of_others_are_refused(cached_attention, positions, slots):
    with pytest.raises(Exception, match="given for another number of rows or positions"):
        cached_attention(1, positions, slots, random_caches(3))


def test_values_of_other_slots_than_the_keys_are_refused(cached_attention):
    keys, values = random_caches(2)
    with pytest.raises(Exception, match="caches of keys and values have other shapes"):
        cached_attention(1, [0, 0], own_slots(2), [keys, values[:1].copy()])
