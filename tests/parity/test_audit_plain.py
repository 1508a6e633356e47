"""The audit of plain weights: every value of a checkpoint, and the zeros that fill up."""

import numpy as np
import pytest
import safetensors.torch
import torch
from small_models import VARIANTS, transformers_module

from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.graph import passes
from whisper2max.graph.walker import walk
from whisper2max.parity.audit import audit

DTYPES = ("float32", "bfloat16")
TABLE, ATTENTION = "decoder.token_embedding.weight", "decoder.blocks.1.attn"


@pytest.fixture(scope="module")
def walked():
    dims = VARIANTS["multilingual_80_mels"]
    return walk(transformers_module(dims, seed=3), dims)


@pytest.fixture(scope="module")
def plain(walked):
    return {dtype: passes.apply(dtype, walked.spec, walked.tensors, "max")[1] for dtype in DTYPES}


@pytest.fixture
def found(walked, plain, tmp_path):
    """found(dtype, changed, arrays) -> differences, of a file some of whose tensors are others; None leaves one out."""

    def found(dtype, changed=None, arrays=None):
        tensors = {name: value for name, value in {**plain[dtype], **(changed or {})}.items() if value is not None}
        safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors")
        arrays = arrays or {name: tensor.numpy() for name, tensor in walked.tensors.items()}
        held = HeldFile(tmp_path / "weights.safetensors", ArtifactError)
        return audit(held, dtype, arrays, walked.source_paths, "max").different

    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_passes_lay_out_is_found_equal(found, dtype):
    assert found(dtype) == ()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("stored", "place", "name", "index"),
    [
        (TABLE, (40_000, 31), TABLE, (40_000, 31)),
        ("encoder.conv1.weight", (9, 2 * 80 + 79), "encoder.conv1.weight", (9, 79, 2)),
        (f"{ATTENTION}.query_key_value.weight", (33, 6), f"{ATTENTION}.key.weight", (1, 6)),
        ("decoder.blocks.0.cross_attn.key_value.weight", (33, 6), "decoder.blocks.0.cross_attn.value.weight", (1, 6)),
        (f"{ATTENTION}.query_key_value.bias", (64,), f"{ATTENTION}.value.bias", (0,)),
        ("decoder.positional_embedding", (447, 0), "decoder.positional_embedding", (447, 0)),
    ],
)
def test_one_changed_value_is_found_where_the_checkpoint_has_it(found, plain, dtype, stored, place, name, index):
    changed = plain[dtype][stored].clone()
    changed[place] += 1
    (difference,) = found(dtype, {stored: changed})
    assert (difference.name, difference.count, difference.index) == (name, 1, index)


@pytest.mark.parametrize("dtype", DTYPES)
def test_swapped_rows_are_found(found, plain, dtype):
    swapped = plain[dtype][TABLE].clone()
    swapped[[50_000, 50_001]] = swapped[[50_001, 50_000]]
    (difference,) = found(dtype, {TABLE: swapped})
    assert difference.name == TABLE and difference.index == (50_000, 0)


@pytest.mark.parametrize(
    ("stored", "place", "name"),
    [
        (TABLE, (51_900, 3), f"{TABLE} after the vocabulary"),
        (f"{ATTENTION}.query_key_value.bias", (40,), f"{ATTENTION}.key.bias"),
    ],
)
def test_what_fills_up_is_zero(found, plain, stored, place, name):
    changed = plain["float32"][stored].clone()
    changed[place] = 1
    assert [difference.name for difference in found("float32", {stored: changed})] == [name]


def test_a_tensor_too_few_and_one_too_many_are_named(found):
    children = [f"{ATTENTION}.{child}.weight" for child in ("query", "key", "value")]
    different = found("float32", {f"{ATTENTION}.query_key_value.weight": None, "more": torch.ones(1)})
    assert sorted(each.name for each in different) == sorted([*children, "more"])


def test_another_dtype_is_no_match(found, plain):
    wide = {TABLE: plain["float32"][TABLE]}
    assert [difference.name for difference in found("bfloat16", wide)] == [TABLE]


def test_a_nearest_value_that_is_not_the_nearest_is_found(found, plain):
    bits = plain["bfloat16"]["encoder.conv2.weight"].view(torch.int16).clone()
    bits[3, 3] += 1
    (difference,) = found("bfloat16", {"encoder.conv2.weight": bits.view(torch.bfloat16)})
    assert difference.index == (3, 3, 0) and np.isfinite(difference.value)
