import numpy as np
import pytest
import safetensors.numpy

from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.parity.audit import audit

EXPECTED = {
    "encoder.conv1.bias": np.arange(4, dtype=np.float32),
    "decoder.token_embedding.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
}
SOURCES = {"decoder.token_embedding.weight": "model.decoder.embed_tokens.weight"}


@pytest.fixture
def store(tmp_path):
    def write(**changed):
        tensors = {**EXPECTED, **{name.replace("__", "."): value for name, value in changed.items()}}
        kept = {name: value for name, value in tensors.items() if value is not None}
        safetensors.numpy.save_file(kept, tmp_path / "weights.safetensors")
        return audit(HeldFile(tmp_path / "weights.safetensors", ArtifactError), EXPECTED, SOURCES)

    return write


def test_equal_weights_are_counted(store):
    found = store()
    assert (found.tensors, found.values, found.different) == (2, 16, ())


def test_the_last_bit_of_one_value_is_found(store):
    changed = EXPECTED["decoder.token_embedding.weight"].copy()
    changed[2, 1] = np.nextafter(changed[2, 1], np.float32(100))
    (difference,) = store(decoder__token_embedding__weight=changed).different
    assert difference.name == "decoder.token_embedding.weight"
    assert difference.source_path == "model.decoder.embed_tokens.weight"
    assert (difference.count, difference.index) == (1, (2, 1))
    assert difference.expected == 9 and difference.value > 9


def test_minus_zero_is_another_value(store):
    changed = EXPECTED["encoder.conv1.bias"].copy()
    changed[0] = -0.0
    assert [each.name for each in store(encoder__conv1__bias=changed).different] == ["encoder.conv1.bias"]


@pytest.mark.parametrize(
    "value", [None, np.zeros((4, 1), np.float32), np.zeros(4, np.int32)], ids=["missing", "shape", "type"]
)
def test_a_tensor_that_cannot_be_compared_is_named(store, value):
    (difference,) = store(encoder__conv1__bias=value).different
    assert difference.name == "encoder.conv1.bias" and difference.expected is None


def test_a_tensor_too_many_is_named(store):
    (difference,) = store(encoder__conv3__bias=np.zeros(4, np.float32)).different
    assert difference.name == "encoder.conv3.bias"
