"""Witness and judge: the two families agree, in float32 and in float64, on the same weights."""

import numpy as np
import pytest
import torch
from small_models import VARIANTS, openai_module, transformers_module

from whisper2max.core.errors import ParityError
from whisper2max.graph.walker import walk
from whisper2max.parity.figures import measure
from whisper2max.parity.reference import Reference, judge_of
from whisper2max.parity.taps import Tap, taps_of

DIMS = VARIANTS["multilingual_80_mels"]
MEL = np.random.default_rng(0).normal(size=(1, 80, 3000)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(0, DIMS.n_vocab, (1, 12))


def values_of(reference, spec):
    values, variances = {}, {}

    def keep(path, value, variance):
        assert path not in values
        values[path] = value
        variances[path] = variance

    encoder, audio, extend, _ = (list(taps.values()) for taps in taps_of(spec).values())
    states = reference.encode(MEL, encoder, keep)
    reference.logits(TOKENS, states.astype(np.float64), [*audio, *extend], keep)
    return values, variances


@pytest.fixture(scope="module")
def openai():
    module = openai_module(DIMS, seed=5)
    return module, walk(module, DIMS)


@pytest.fixture(scope="module")
def judged(openai):
    module, walked = openai
    return values_of(judge_of(module, walked), walked.spec)


def test_openais_float32_is_rounding_away_from_transformers_float64(openai, judged):
    module, walked = openai
    values, _ = values_of(Reference(module, walked), walked.spec)
    exact, _ = judged
    assert list(values) and values.keys() == exact.keys()
    for path, value in values.items():
        assert value.dtype == np.float32 and exact[path].dtype == np.float64, path
        assert value.shape == exact[path].shape == (1, value.shape[1], exact[path].shape[2]), path
        assert measure(value, exact[path]).rel_rmse < 5e-6, path


def test_both_families_judge_alike(openai, judged):
    module, walked = openai
    other = judge_of(module, walked)._module
    values, _ = values_of(judge_of(other, walk(other, DIMS)), walked.spec)
    for path, value in values.items():
        np.testing.assert_array_equal(value, judged[0][path])


def test_a_norm_comes_with_the_variance_of_its_input(judged):
    values, variances = judged
    with_variance = {path for path, variance in variances.items() if variance}
    assert with_variance == {path for path in values if path.endswith(("_ln", ".ln", ".ln_post"))}
    before = values["encoder.positional_embedding"].var(-1)
    assert variances["encoder.blocks.0.attn_ln"] == pytest.approx((before.min(), before.max()), rel=1e-12)


def test_the_first_convolution_is_heard_after_its_gelu(openai, judged):
    module, walked = openai
    values, _ = judged
    after = torch.nn.functional.gelu(module.encoder.conv1.double()(torch.from_numpy(MEL).double()))
    module.float()
    np.testing.assert_allclose(values["encoder.conv1.gelu"], after.detach().transpose(1, 2), atol=1e-12)


def test_the_judge_leaves_the_weights_as_they_were(openai):
    module = transformers_module(DIMS)
    walked = walk(module, DIMS)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    judge = judge_of(module, walked)
    judge.encode(MEL)
    for holder in (module, judge._module):
        for name, tensor in holder.state_dict().items():
            assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name]), name


def test_a_value_that_is_never_computed_is_refused(openai):
    module, walked = openai
    reference = Reference(module, walked)
    with pytest.raises(ParityError, match="0 of 1 values, each once, but not decoder.ln"):
        reference.encode(MEL, [Tap("decoder.ln", "decoder.ln", "output", "layer_norm")], lambda *found: None)


def test_blocks_can_be_fed_other_inputs(openai):
    module, walked = openai
    reference = Reference(module, walked)
    fed = {}

    def zeros(path, values):
        fed[path] = values.shape
        return np.zeros_like(values)

    kept = {}
    taps = [Tap("encoder.blocks.1.attn_ln", "encoder.blocks.1.attn_ln", "output", "layer_norm")]
    with reference.replacing(zeros, ["encoder.blocks.1"]):
        reference.encode(MEL, taps, lambda path, value, variance: kept.update({path: value}))
    assert fed == {"encoder.blocks.1": (1, 1500, 32)}
    bias = walked.tensors["encoder.blocks.1.attn_ln.bias"].numpy()
    np.testing.assert_array_equal(kept["encoder.blocks.1.attn_ln"][0, 700], bias)
    assert reference.encode(MEL).std() > 0.1
