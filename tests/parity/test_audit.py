import numpy as np
import pytest
import safetensors.torch
import torch
from small_models import VARIANTS, transformers_module

from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.graph import passes
from whisper2max.graph.ir import DTYPES
from whisper2max.graph.walker import walk
from whisper2max.parity.audit import FORMATS, audit

TABLE, CONVOLUTION, LINEAR = "decoder.token_embedding.weight", "encoder.conv1.weight", "decoder.blocks.1.mlp.0.weight"


@pytest.fixture(scope="module")
def walked():
    dims = VARIANTS["multilingual_80_mels"]
    return walk(transformers_module(dims, seed=3), dims)


@pytest.fixture(scope="module")
def packed(walked):
    return {dtype: passes.apply(dtype, walked.spec, walked.tensors)[1] for dtype in DTYPES}


@pytest.fixture
def store(walked, packed, tmp_path):
    """Audit a file of a dtype, some of whose tensors are others; None leaves one out."""

    def write(dtype, changed=None):
        tensors = {**packed[dtype], **(changed or {})}
        kept = {name: value for name, value in tensors.items() if value is not None}
        safetensors.torch.save_file(kept, tmp_path / "weights.safetensors")
        arrays = {name: tensor.numpy() for name, tensor in walked.tensors.items()}
        return audit(HeldFile(tmp_path / "weights.safetensors", ArtifactError), dtype, arrays, walked.source_paths)

    return write


def test_every_dtype_has_a_layout():
    assert FORMATS.keys() == passes.PASSES["cpu"].keys()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_packed_is_found_equal(store, walked, dtype):
    found = store(dtype)
    values = sum(tensor.numel() for tensor in walked.tensors.values())
    assert (found.tensors, found.values, found.different) == (len(walked.tensors), values, ())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "place"), [(TABLE, (40_000, 31)), (CONVOLUTION, (9, 79, 2)), (LINEAR, (33, 6))])
def test_a_value_of_the_checkpoint_is_found_where_it_lies(store, packed, walked, dtype, name, place):
    out, inside, *kernel = place
    channels = walked.tensors[name].shape[1]
    column = kernel[0] * channels + inside if kernel else inside
    changed = packed[dtype][name].clone()
    values = changed.shape[3]
    at = out // 32, column // values, out % 32, column % values
    bits = changed.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[changed.element_size()])
    bits[at] += 1
    differences = store(dtype, {name: changed}).different
    assert [each.name for each in differences] == [name, f"{name}_sums"][: len(differences)]
    first = differences[0]
    assert (first.count, first.index, first.source_path) == (1, place, walked.source_paths[name])
    assert first.expected == walked.tensors[name][place] or dtype == "bfloat16" or name == CONVOLUTION
    assert first.value != first.expected and first.value == pytest.approx(first.expected, rel=0.6, abs=0.01)
    assert (len(differences) == 2) == (changed.dtype == torch.int8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_rows_of_the_token_table_that_were_swapped_are_found(store, walked, dtype):
    swapped = walked.tensors[TABLE].clone()
    swapped[[40_001, 41_777]] = swapped[[41_777, 40_001]]
    _, tensors = passes.apply(dtype, walked.spec, {**walked.tensors, TABLE: swapped})
    differences = {each.name: each for each in store(dtype, tensors).different}
    assert differences[TABLE].index[0] == 40_001 and differences[TABLE].count > 32
    assert differences.keys() == ({TABLE, f"{TABLE}_scales"} if dtype == "int8" else {TABLE})


def test_rounding_down_is_not_rounding_to_the_nearest(store, walked):
    weight = walked.tensors[LINEAR]
    cut = (weight.view(torch.int32) & -65536).view(torch.float32)
    (difference,) = store("bfloat16", {LINEAR: passes.panels(cut.to(torch.bfloat16), LINEAR)}).different
    assert difference.name == LINEAR and 0.4 < difference.count / weight.numel() < 0.6


@pytest.mark.parametrize("part", ["scales", "sums"])
def test_scales_and_sums_of_int8_are_those_of_the_row(store, packed, part):
    name = f"{LINEAR}_{part}"
    changed = packed["int8"][name].clone()
    changed[5] = changed[5] + 1 if part == "sums" else torch.nextafter(changed[5], torch.tensor(1.0))
    (difference,) = store("int8", {name: changed}).different
    assert (difference.name, difference.count, difference.index) == (name, 1, (5,))


def test_a_row_in_steps_of_another_size_is_found(store, packed, walked):
    """Twice the scale and half the values: the product is right, the precision is not."""
    halved = torch.round(walked.tensors[LINEAR] / (2 * packed["int8"][f"{LINEAR}_scales"])[:, None]).to(torch.int8)
    changed = {
        LINEAR: passes.panels(halved, LINEAR),
        f"{LINEAR}_scales": 2 * packed["int8"][f"{LINEAR}_scales"],
        f"{LINEAR}_sums": halved.sum(1, dtype=torch.int32),
    }
    assert {each.name for each in store("int8", changed).different} >= {LINEAR, f"{LINEAR}_scales"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_that_do_not_exist_are_zero(store, packed, dtype):
    changed = packed[dtype][TABLE].clone()
    assert changed.shape[0] * 32 > 51865
    changed[-1, 0, 31, 0] = 1
    differences = store(dtype, {TABLE: changed}).different
    assert [(each.name, each.index) for each in differences] == [(TABLE, (changed.shape[0] * 32 - 1, 0))]
    assert differences[0].expected == 0


def test_minus_zero_is_another_value(store, packed):
    name = "encoder.conv1.bias"
    changed = packed["float32"][name].clone()
    assert not changed[0]
    changed[0] = -0.0
    assert [each.name for each in store("float32", {name: changed}).different] == [name]


@pytest.mark.parametrize("name", ["encoder.conv1.bias", LINEAR, f"{LINEAR}_scales", f"{LINEAR}_sums"])
@pytest.mark.parametrize("change", [lambda x: None, lambda x: x[:-1].clone(), lambda x: x.to(torch.float16)])
def test_a_tensor_that_cannot_be_compared_is_named(store, packed, name, change):
    changed = change(packed["int8"][name])
    if changed is not None and changed.dtype == torch.float16:
        changed = changed.to(torch.float32 if name.endswith(("sums", "weight")) else torch.int32)
    (difference,) = store("int8", {name: changed}).different
    assert difference.name == name and difference.expected is None


def test_a_tensor_too_many_is_named(store):
    (difference,) = store("float32", {"encoder.conv3.bias": torch.zeros(4)}).different
    assert difference.name == "encoder.conv3.bias" and difference.source_path is None


def test_the_layout_is_that_of_the_documentation(tmp_path):
    """By hand: two outputs of four inputs, and a convolution of two channels and three frames."""
    weight = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    filters = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    bf16 = np.zeros((1, 3, 32, 2), np.float32)
    bf16[0, :, 0] = [[0, 3], [1, 4], [2, 5]]
    steps = np.zeros((1, 1, 32, 4), np.int8)
    steps[0, 0, 0], steps[0, 0, 1] = [32, 64, 95, 127], [79, 95, 111, 127]
    stored = {
        "encoder.conv1.weight": torch.from_numpy(bf16).to(torch.bfloat16),
        "a.weight": torch.from_numpy(steps),
        "a.weight_scales": torch.tensor([4 / 127, 8 / 127], dtype=torch.float32),
        "a.weight_sums": torch.tensor([318, 412], dtype=torch.int32),
    }
    safetensors.torch.save_file(stored, tmp_path / "weights.safetensors")
    file = HeldFile(tmp_path / "weights.safetensors", ArtifactError)
    found = audit(file, "int8", {"encoder.conv1.weight": filters, "a.weight": weight}, {})
    assert (found.tensors, found.values, found.different) == (2, 14, ())
