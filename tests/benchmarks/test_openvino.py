"""The OpenVINO peer stands where this project's engine stands in the decoding loop; mypy compares the two as well."""

import numpy as np
import pytest
from peers import openvino
from peers.base import NotOffered

from whisper2max.runtime.protocol import Rows


class Sequence:
    """In the place of `openvino.Sequences`: its logits are the states and all tokens so far."""

    def __init__(self, engine, states):
        self.told = [float(states)]

    @property
    def length(self) -> int:
        return len(self.told) - 1

    def run(self, tokens):
        self.told += tokens[0].tolist()
        return np.array([self.told + [0.0] * (8 - len(self.told))], np.float32)


class Encoder:
    def encode(self, mel):
        return mel.sum()


@pytest.fixture
def session(monkeypatch) -> openvino.Session:
    monkeypatch.setattr(openvino, "Sequences", Sequence)
    session = openvino.Session(Encoder(), 2, 2)
    session.hear(np.full((1, 1), 7.0), 0)
    session.hear(np.full((1, 1), 9.0), 1)
    return session


def test_rows_go_on_in_their_slots(session):
    picked = np.array([[0, 2], [1, 1]])
    logits = session.extend(np.array([[1, 2, 3], [4, 5, 0]]), Rows.apart([0, 0], [1, 0], 8), picked)
    np.testing.assert_array_equal(logits[0], [[9, 1, 0, 0, 0, 0, 0, 0], [9, 1, 2, 3, 0, 0, 0, 0]])
    np.testing.assert_array_equal(logits[1], [[7, 4, 5, 0, 0, 0, 0, 0]] * 2)
    logits = session.step(np.array([6, 6]), Rows.apart([3, 2], [1, 0], 8))
    np.testing.assert_array_equal(logits, [[9, 1, 2, 3, 6, 0, 0, 0], [7, 4, 5, 6, 0, 0, 0, 0]])
    # a slot that begins anew forgets what it held
    again = session.extend(np.array([[8]]), Rows.apart([0], [0], 8), np.array([[0]]))
    np.testing.assert_array_equal(again[0, 0], [7, 8, 0, 0, 0, 0, 0, 0])


def test_what_it_cannot_do_is_said(session):
    session.extend(np.array([[1, 2], [3, 4]]), Rows.apart([0, 0], [0, 1], 8), np.array([[1], [1]]))
    shared = np.array([[0, 1, 0, 0, 0, 0, 0, 0]], np.int32)
    with pytest.raises(NotOffered, match="share"):
        session.step(np.array([5]), Rows(np.array([2]), shared, np.array([0])))
    with pytest.raises(NotOffered, match="go back"):
        session.step(np.array([5]), Rows.apart([1], [0], 8))
