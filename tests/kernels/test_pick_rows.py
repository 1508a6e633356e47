"""whisper2max.pick_rows."""

import numpy as np
import pytest


def test_each_sequence_gives_its_own_rows(rows):
    given, got = rows()
    np.testing.assert_array_equal(got["pick_rows"][:, 0], [given["x"][0, 2], given["x"][1, 0]])


def test_a_row_outside_the_sequence_is_refused(rows):
    with pytest.raises(Exception, match="a picked row lies outside of the sequence"):
        rows(picked=np.array([[3], [0]]))
