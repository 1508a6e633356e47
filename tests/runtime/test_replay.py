"""What is recorded, and when, against a model that notes what it is told. No GPU, and MAX alone for its buffers."""

import numpy as np
import pytest
from max.driver import Buffer

from whisper2max.runtime.replay import Replayed


class Noting:
    """A graph that gives the sum of its first input."""

    def __init__(self):
        self.said, self.held = [], {}

    def _sum(self, inputs):
        return float(inputs[0].to_numpy().sum())

    def execute(self, *inputs):
        self.said.append("execute")
        return [Buffer.from_numpy(np.array([self._sum(inputs)]))]

    def capture(self, key, *inputs):
        self.said.append("capture")
        self.held[key] = inputs, Buffer.from_numpy(np.zeros(1))
        return [self.held[key][1]]

    def replay(self, key, *inputs):
        self.said.append("replay")
        recorded, output = self.held[key]
        assert all(now is then for now, then in zip(inputs, recorded, strict=True)), "other memory than was recorded"
        output.inplace_copy_from(Buffer.from_numpy(np.array([self._sum(inputs)])))

    def release_captured_graph(self, key):
        self.said.append("release")
        del self.held[key]


@pytest.fixture
def noting():
    return Noting()


@pytest.fixture
def run(noting):
    fixed = [Buffer.from_numpy(np.ones(3))]
    return Replayed(noting, fixed, lambda array: Buffer.from_numpy(array.copy()))


def test_the_second_run_of_a_number_of_rows_is_recorded_and_later_ones_repeat_it(noting, run):
    for value in (1.0, 2.0, 3.0, 4.0):
        (output,) = run(np.full(2, value), np.zeros((2, 5)))
        assert output.to_numpy()[0] == 2 * value
    assert noting.said == ["execute", "capture", "replay", "replay", "replay"]


def test_every_number_of_rows_has_a_recording_of_its_own(noting, run):
    for _ in range(2):
        for rows in (1, 3, 2):
            run(np.ones(rows))
    for rows in (2, 1, 3):
        assert run(np.ones(rows))[0].to_numpy()[0] == rows
    assert noting.said.count("capture") == len(noting.held) == 3 and noting.said.count("execute") == 3


def test_two_of_one_graph_do_not_meet(noting, run):
    other = Replayed(noting, [], lambda array: Buffer.from_numpy(array.copy()))
    for _ in range(2):
        run(np.ones(2))
        other(np.full(2, 5.0))
    assert len(noting.held) == 2
    assert run(np.ones(2))[0].to_numpy()[0] == 2 and other(np.full(2, 5.0))[0].to_numpy()[0] == 10


def test_recordings_go_with_who_made_them(noting):
    run = Replayed(noting, [], lambda array: Buffer.from_numpy(array.copy()))
    for _ in range(2):
        run(np.ones(1))
    del run
    assert noting.said[-1] == "release" and not noting.held


def test_what_did_not_change_is_not_copied_again(noting, run):
    for _ in range(2):
        run(np.ones(2), np.zeros(2))
    ((inputs, _),) = noting.held.values()
    inputs[0].to_numpy()[:] = 7
    assert run(np.ones(2), np.ones(2))[0].to_numpy()[0] == 14
    changed = np.full(2, 3.0)
    assert run(changed, np.ones(2))[0].to_numpy()[0] == 6
    changed[0] = 5
    assert run(changed, np.ones(2))[0].to_numpy()[0] == 8
