"""Weights in the memory map of their file, also on the way to MAX."""

import numpy as np
import pytest
import safetensors.torch
import torch
from max.dtype import DType

from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.runtime.weights import map_weights, registry

TENSORS = {
    "float32": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "bfloat16": torch.arange(8).reshape(2, 4).to(torch.bfloat16),
    "int8": torch.arange(-4, 4, dtype=torch.int8),
    "int32": torch.arange(5, dtype=torch.int32),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    return HeldFile(path, ArtifactError)


def test_values_of_every_dtype(file):
    weights = map_weights(file)
    assert weights.keys() == TENSORS.keys()
    np.testing.assert_array_equal(weights.pop("bfloat16"), TENSORS["bfloat16"].view(torch.uint16))
    for name, array in weights.items():
        np.testing.assert_array_equal(array, TENSORS[name])


def test_max_gets_the_very_memory_and_bfloat16_under_its_name(file):
    weights = map_weights(file)
    bound = registry(weights)
    assert bound["float32"] is weights["float32"]
    assert bound["bfloat16"].dtype == DType.bfloat16 and tuple(bound["bfloat16"].shape) == (2, 4)
    weights["bfloat16"][0, 0] = 0x4120
    assert bound["bfloat16"].view(DType.uint16, (2, 4)).to_numpy()[0, 0] == 0x4120, "a copy would not see the change"
    np.testing.assert_array_equal(map_weights(file)["bfloat16"], TENSORS["bfloat16"].view(torch.uint16))


def test_other_arrays_are_read_only(file):
    with pytest.raises(ValueError, match="read-only"):
        map_weights(file)["float32"][0, 0] = 1


def test_a_damaged_header_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes((8).to_bytes(8, "little") + b"{not js}")
    with pytest.raises(ArtifactError, match="header of weights.safetensors is not valid JSON"):
        map_weights(HeldFile(path, ArtifactError))
