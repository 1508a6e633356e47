"""whisper2max.add_positions: every row begins at a position of its own."""

import numpy as np
import pytest


def test_positions_begin_where_each_row_does(rows):
    given, got = rows()
    for row, start in enumerate(given["positions"]):
        np.testing.assert_array_equal(got["add_positions"][row], given["x"][row] + given["table"][start : start + 3])


def test_one_position_serves_all_rows(rows):
    given, got = rows(positions=np.array([2]))
    np.testing.assert_array_equal(got["add_positions"], given["x"] + given["table"][2:5])


@pytest.mark.parametrize(("positions", "message"), [([0, 10], "outside of the table"), ([0, 0, 0], "disagree")])
def test_positions_that_fit_no_row_are_refused(rows, positions, message):
    with pytest.raises(Exception, match=message):
        rows(positions=np.array(positions))
