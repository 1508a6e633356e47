import numpy as np
import pytest

from whisper2max.core.errors import ParityError
from whisper2max.parity.figures import divergence, measure, require_usable

REFERENCE = np.array([[[1.0, -4.0], [2.0, 0.5]]])


def test_figures_of_a_known_difference():
    got = REFERENCE + np.array([[[0.0, 0.0], [0.0, -0.2]]])
    figures = measure(got, REFERENCE)
    assert figures.max_abs == pytest.approx(0.05)
    assert figures.rel_rmse == pytest.approx(np.sqrt(0.04 / 21.25))
    assert figures.worst == (0, 1, 1)
    expected = np.sum(got * REFERENCE) / np.linalg.norm(got) / np.linalg.norm(REFERENCE)
    assert figures.cosine == pytest.approx(expected)


def test_equal_tensors_have_no_error():
    figures = measure(REFERENCE.astype(np.float32), REFERENCE)
    assert (figures.max_abs, figures.rel_rmse) == (0, 0) and figures.cosine == pytest.approx(1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_infinitely_far(value):
    got = REFERENCE.copy()
    got[0, 1, 0] = value
    figures = measure(got, REFERENCE)
    assert figures.max_abs == figures.rel_rmse == np.inf
    assert figures.worst == (0, 1, 0)


@pytest.mark.parametrize(
    "reference", [np.zeros((1, 2, 2)), np.full((1, 2, 2), 3.0), np.full((1, 2, 2), np.nan), np.zeros((0, 2, 2))]
)
def test_a_reference_that_proves_nothing_is_refused(reference):
    with pytest.raises(ParityError, match="proves nothing"):
        require_usable("encoder.conv1", "clip", reference, reference)


def test_another_shape_is_refused():
    with pytest.raises(ParityError, match=r"shape \[1, 2, 1\], but the reference gives \[1, 2, 2\]"):
        require_usable("encoder.conv1", "clip", REFERENCE[..., :1], REFERENCE)


def test_divergence_of_two_distributions():
    logits = np.log(np.array([[[0.5, 0.25, 0.25]]]))
    other = np.log(np.array([[[0.25, 0.5, 0.25]]])) + 7.0
    assert divergence(logits, logits) == pytest.approx(0, abs=1e-15)
    assert divergence(other, logits) == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2))
