"""The unit of a row's limits: torch's own error, where a run compares some tokens of a sequence."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_models import VARIANTS, packed_spec

from whisper2max.core.errors import ParityError
from whisper2max.parity.figures import Place
from whisper2max.parity.proof import PyTorch
from whisper2max.parity.runs import MAIN, Run
from whisper2max.parity.taps import LOGITS

PICKED = np.array([3, 4, 5, 90])


def judged(error, torch_here, torch_elsewhere, picked=PICKED):
    """The row of logits that are `error` off in the picked tokens, where torch is other amounts off."""
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(1, 100, 50))
    noise = rng.normal(size=exact.shape)
    torch = exact + torch_elsewhere * noise
    torch[:, picked] = exact[:, picked] + torch_here * noise[:, picked]
    judge, witness = (SimpleNamespace(description=name, source_path=lambda path: None) for name in ("judge", "witness"))
    given = {"judge": exact, "witness": torch}
    standard = PyTorch(judge, witness, packed_spec(VARIANTS["english_80_mels"], "float32"), None, [], None, None)
    got = exact[:, picked] + error * noise[:, picked]
    place = Place("tapped", "extend", "clip", "1 row", None, 0)
    run = Run(place, MAIN, {LOGITS: got}, np.arange(100), picked)
    (row,) = standard._judge(lambda reference, taps, sink: sink(LOGITS, given[reference.description], None), [run])
    return row


@pytest.mark.parametrize(("picked", "far"), [(PICKED, 2e-5), (PICKED[:1], 1e-4)])
def test_luck_in_a_few_tokens_is_no_unit(picked, far):
    row = judged(4e-6, torch_here=1e-7, torch_elsewhere=1e-6, picked=picked)
    assert row.passed and row.torch_rel_rmse == pytest.approx(1e-6, rel=0.1)
    assert not judged(far, torch_here=1e-7, torch_elsewhere=1e-6, picked=picked).passed


def test_bad_luck_in_a_few_tokens_is_their_unit():
    assert judged(4e-6, torch_here=1e-6, torch_elsewhere=1e-7).torch_rel_rmse > 5e-7


def test_another_network_is_refused_wherever_it_differs():
    with pytest.raises(ParityError, match="not the same network"):
        judged(0, torch_here=1e-7, torch_elsewhere=1e-2)
