import json

import numpy as np
import pytest
import safetensors.numpy

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.parity.figures import Place
from whisper2max.parity.kept import FILE, FRAMES, read_kept, seeded_frames, value_key


def test_kept_frames_are_the_same_every_time_and_spread():
    frames = seeded_frames(1500)
    np.testing.assert_array_equal(frames, seeded_frames(1500))
    assert len(set(frames)) == FRAMES and (np.diff(frames) > 0).all()
    assert frames.min() < 300 and frames.max() > 1200
    assert seeded_frames(1).tolist() == [0]


DIMS = ModelDimensions(80, 1500, 4, 2, 1, 1766, 448, 4, 2, 1)
KEY = value_key(Place("shipped", "encoder", "a.flac"), "encoder.ln_post")


def kept_file(tmp_path, change=lambda about, tensors: None) -> HeldFile:
    """A reference of one recording and one value, changed."""
    tensors = {
        "samples/a.flac": np.zeros(480_000, np.float32),
        "mel/a.flac": np.zeros((80, 3000), np.float32),
        KEY: np.ones((1, FRAMES, 4), np.float32),
    }
    about = {
        "judge": "a test",
        "inputs": [{"name": "a.flac", "seconds": 2.5, "prompt": [1, 2], "greedy": [3]}],
        "values": {
            KEY: {"source_path": None, "rows": 1500, "norm": 1.0, "tolerance": {"max_abs": 1.0, "rel_rmse": None}}
        },
    }
    change(about, tensors)
    safetensors.numpy.save_file(tensors, tmp_path / FILE, {"reference": json.dumps(about)})
    return HeldFile(tmp_path / FILE, ArtifactError)


def test_what_is_kept_is_read(tmp_path):
    kept = read_kept(kept_file(tmp_path), DIMS)
    assert kept.judge == "a test" and kept.inputs[0]["greedy"] == [3]
    about, frames = kept.value(KEY, 1500, 4)
    assert about["norm"] == 1.0 and frames.shape == (1, FRAMES, 4)
    for key, rows, width in [("another", 1500, 4), (KEY, 1499, 4), (KEY, 1500, 5)]:
        with pytest.raises(ArtifactError, match="reference.safetensors holds no .* --keep-reference"):
            kept.value(key, rows, width)


@pytest.mark.parametrize(
    "change",
    [
        lambda about, tensors: about.pop("judge"),
        lambda about, tensors: about.update(inputs=[]),
        lambda about, tensors: about.update(inputs={}),
        lambda about, tensors: about.update(values=[]),
        lambda about, tensors: about["inputs"].append(3),
        lambda about, tensors: about["inputs"][0].update(name=["a"]),
        lambda about, tensors: about["inputs"][0].update(name="b"),
        lambda about, tensors: about["inputs"][0].update(seconds="2"),
        lambda about, tensors: about["inputs"][0].update(prompt=[]),
        lambda about, tensors: about["inputs"][0].update(greedy=[DIMS.n_vocab]),
        lambda about, tensors: about["inputs"][0].update(greedy=[1] * 448),
        lambda about, tensors: about["values"].update({"absent": about["values"][KEY]}),
        lambda about, tensors: about["values"][KEY].update(rows=1e9),
        lambda about, tensors: about["values"][KEY].update(norm=0),
        lambda about, tensors: about["values"][KEY].update(source_path=3),
        lambda about, tensors: about["values"][KEY].update(tolerance=None),
        lambda about, tensors: about["values"][KEY].update(tolerance={"max_abs": "1"}),
        lambda about, tensors: tensors.update({"mel/a.flac": np.zeros((128, 3000), np.float32)}),
        lambda about, tensors: tensors.update({"samples/a.flac": np.zeros(480_000, np.int32)}),
    ],
)
def test_what_a_comparison_does_not_keep_is_refused(tmp_path, change):
    with pytest.raises(ArtifactError, match="does not hold what is kept of a comparison.*--keep-reference"):
        read_kept(kept_file(tmp_path, change), DIMS)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"nonsense, long enough to be read"])
def test_a_file_that_is_something_else_is_refused(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match="convert the model again|Convert again with --keep-reference"):
        read_kept(HeldFile(tmp_path / FILE, ArtifactError), DIMS)
