"""whisper2max.layer_norm against the definition in float64."""

import numpy as np
from longhand import EPS


def test_channels_far_from_zero(rows):
    given, got = rows()
    x = given["x"].astype(np.float64)
    exact = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS)
    np.testing.assert_allclose(got["layer_norm"], exact * given["weight"] + given["bias"], rtol=0, atol=2e-5)


def test_a_constant_row_becomes_the_bias(rows):
    given, got = rows(x=np.full((2, 3, 64), 7, np.float32))
    np.testing.assert_array_equal(got["layer_norm"], np.broadcast_to(given["bias"], (2, 3, 64)))
