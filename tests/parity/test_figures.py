import numpy as np
import pytest

from whisper2max.core.errors import ParityError
from whisper2max.parity.figures import Place, compare, divergence, measure, of_limit, require_usable
from whisper2max.parity.taps import Tap

REFERENCE = np.array([[[1.0, -4.0], [2.0, 0.5]]])


def test_figures_of_a_known_difference():
    got = REFERENCE + np.array([[[0.0, 0.0], [0.0, -0.2]]])
    figures = measure(got, REFERENCE)
    assert figures.max_abs == pytest.approx(0.05)
    assert figures.rel_rmse == pytest.approx(np.sqrt(0.04 / 21.25))
    assert figures.worst == (0, 1, 1)
    expected = np.sum(got * REFERENCE) / np.linalg.norm(got) / np.linalg.norm(REFERENCE)
    assert figures.cosine == pytest.approx(expected)


def test_a_tensor_that_is_measured_in_pieces():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(1, 3, 1 << 20))
    got = (reference + 1e-3 * rng.normal(size=reference.shape)).astype(np.float32)
    got[0, 1, 5] += 1
    figures, difference = measure(got, reference), got - reference
    assert figures.worst == (0, 1, 5)
    assert figures.max_abs == pytest.approx(np.abs(difference).max() / np.abs(reference).max())
    assert figures.rel_rmse == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(reference))
    cosine = np.sum(got * reference) / np.linalg.norm(got.astype(np.float64)) / np.linalg.norm(reference)
    assert figures.cosine == pytest.approx(cosine, abs=1e-12)
    got[0, 2, 7] = np.nan
    assert measure(got, reference).worst == (0, 2, 7)


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
        require_usable("encoder.conv1.gelu", "clip", reference, reference)


def test_another_shape_is_refused():
    with pytest.raises(ParityError, match=r"shape \[1, 2, 1\], but the reference gives \[1, 2, 2\]"):
        require_usable("encoder.conv1.gelu", "clip", REFERENCE[..., :1], REFERENCE)


def test_divergence_of_two_distributions():
    logits = np.log(np.array([[[0.5, 0.25, 0.25]]]))
    other = np.log(np.array([[[0.25, 0.5, 0.25]]])) + 7.0
    assert divergence(logits, logits) == pytest.approx(0, abs=1e-15)
    assert divergence(other, logits) == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2))


TAP = Tap("decoder.blocks.0", "decoder.blocks.0", "output", "linear_add", ("decoder.blocks.0.mlp.2",))
PLACE = Place("tapped", "extend", "clip", "3 rows on shared prefixes", 1, 224)


def test_a_row_says_where_it_comes_from_and_counts_tokens_from_the_beginning():
    got = REFERENCE + np.array([[[0.0, 0.0], [0.0, -0.2]]])
    limits = {"max_abs": 0.1, "rel_rmse": 0.1}
    positions = np.array([224, 447])
    row = compare(TAP, PLACE, got=got, reference=REFERENCE, limits=limits, positions=positions)
    assert row.place == PLACE and PLACE.words == "extend of 3 rows on shared prefixes, row 1 at 224"
    assert (row.kernel, row.inside) == ("linear_add", ("decoder.blocks.0.mlp.2",))
    assert row.worst == (0, 447, 1) and row.passed and row.of_limit == pytest.approx(0.5)
    tight = compare(TAP, PLACE, got=got, reference=REFERENCE, limits={"max_abs": 0.04, "rel_rmse": 1.0})
    assert not tight.passed and tight.worst == (0, 1, 1)


def test_a_difference_itself_can_be_judged():
    got = REFERENCE + np.array([[[0.0, 0.0], [0.0, -0.2]]])
    row = compare(TAP, PLACE, got=got, reference=REFERENCE, limits={"max_abs": 0.19, "rel_rmse": None}, absolute=True)
    assert row.max_abs == pytest.approx(0.2) and not row.passed


def test_an_error_beside_its_limits():
    limits = {"max_abs": 1e-4, "rel_rmse": None}
    assert of_limit(5e-5, 1.0, limits) == pytest.approx(0.5)
    assert of_limit(None, 1e-9, limits) == of_limit(np.nan, 0, limits) == np.inf
    nothing = {"max_abs": 0, "rel_rmse": 0}
    assert of_limit(1e-9, 0, nothing) == np.inf and of_limit(0, 0, nothing) == 0
