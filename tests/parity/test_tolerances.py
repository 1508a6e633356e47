import pytest

from whisper2max.graph.ir import DTYPES
from whisper2max.graph.passes import PASSES
from whisper2max.parity.tolerances import EPSILONS, TOLERANCES


def test_every_dtype_that_is_offered_has_tolerances():
    assert TOLERANCES.keys() == PASSES["cpu"].keys() == set(DTYPES)


def test_limits_are_multiples_of_torchs_error():
    table = TOLERANCES["float32"]
    limits = table.limits(2e-6, 1e-6)
    assert limits == {"max_abs": pytest.approx(2e-6 * table.max_abs), "rel_rmse": pytest.approx(1e-6 * table.rel_rmse)}


def test_where_torch_is_exact_the_unit_is_epsilon():
    table = TOLERANCES["float32"]
    floor = table.floor * EPSILONS["float32"]
    assert table.limits(0.0, 0.0) == {"max_abs": table.max_abs * floor, "rel_rmse": table.rel_rmse * floor}


def test_a_single_position_has_limits_of_its_own():
    table = TOLERANCES["float32"]
    limits = table.limits(2e-6, 1e-6, one_position=True)
    assert limits == {
        "max_abs": pytest.approx(2e-6 * table.step_max_abs),
        "rel_rmse": pytest.approx(1e-6 * table.step_rel_rmse),
    }


def test_narrow_dtypes_are_judged_in_units_of_their_epsilon():
    for dtype in ("bfloat16", "int8"):
        table = TOLERANCES[dtype]
        assert table.limits(1e-6, 1e-6) == {
            "max_abs": table.max_abs * EPSILONS[dtype],
            "rel_rmse": table.rel_rmse * EPSILONS[dtype],
        }
