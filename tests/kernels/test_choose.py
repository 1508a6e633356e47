"""whisper2max.choose on the CPU against the choice of arrays."""

import numpy as np
import pytest
from any_choices import N_VOCAB, cases, require_equal, wanted
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef, TensorType

from whisper2max.core.errors import UsageError
from whisper2max.runtime.choice import Allowed
from whisper2max.runtime.choice_on_device import Masks, answered


@pytest.fixture(scope="module")
def choose(compile_graph):
    """choose(logits [rows, n_vocab], asked, masks) -> answers [rows, 4]."""
    cpu = DeviceRef.CPU()
    types = [
        TensorType(DType.float32, ["rows", "vocabulary"], cpu),
        TensorType(DType.int32, ["asked", 10], cpu),
        TensorType(DType.uint8, ["masks", "of"], cpu),
    ]

    def build(kernel, *values):
        return [kernel("choose", list(values), TensorType(DType.float32, ["rows", 4], cpu))]

    graph = compile_graph("choose", types, build)
    return lambda *arrays: graph.execute(*map(Buffer.from_numpy, arrays))[0].to_numpy()


def test_every_row_is_answered_as_by_arrays(choose):
    names, logits, allowed = zip(*cases(), strict=True)
    masks = Masks(N_VOCAB)
    asked = masks.asked(allowed)
    assert len(masks.masks) == 2, "texts that are decoded alike share a mask"
    answers = choose(np.stack(logits), asked, masks.masks)
    for name, scores, each, answer in zip(names, logits, allowed, answered(answers), strict=True):
        require_equal(name, answer, wanted(scores, each))


def test_masks_grow_and_keep_their_numbers(choose):
    masks, scores = Masks(N_VOCAB), np.arange(N_VOCAB, dtype=np.float32)[None]
    for last in range(1, 5):
        above = Allowed(np.arange(N_VOCAB - last, N_VOCAB))
        asked = masks.asked([above])
        assert asked[0, 0] == last - 1 and len(masks.masks) == last
        (choice,) = answered(choose(scores, asked, masks.masks))
        assert choice.token == N_VOCAB - last - 1


def test_a_mask_that_is_not_there_is_refused(choose):
    masks = Masks(N_VOCAB)
    asked = masks.asked([Allowed(np.array([3]))])
    asked[0, 0] = 1
    with pytest.raises(Exception, match="a row asks for a mask that is not there"):
        choose(np.zeros((1, N_VOCAB), np.float32), asked, masks.masks)


def test_other_numbers_than_rows_are_refused(choose):
    masks = Masks(N_VOCAB)
    asked = masks.asked([Allowed(np.array([3]))])
    with pytest.raises(Exception, match="rows are asked for in other numbers"):
        choose(np.zeros((2, N_VOCAB), np.float32), asked, masks.masks)


def test_more_ranges_than_there_are_numbers_for_are_refused():
    with pytest.raises(UsageError, match="4 ranges of tokens are forbidden; 3 at most"):
        Masks(N_VOCAB).asked([Allowed(np.empty(0, np.int64), ((0, 1),) * 4)])
