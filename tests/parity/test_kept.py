import numpy as np
import pytest

from whisper2max.errors import ArtifactError
from whisper2max.parity.kept import FILE, FRAMES, read_kept, seeded_frames


def test_kept_frames_are_the_same_every_time_and_spread():
    frames = seeded_frames(1500)
    np.testing.assert_array_equal(frames, seeded_frames(1500))
    assert len(set(frames)) == FRAMES and (np.diff(frames) > 0).all()
    assert frames.min() < 300 and frames.max() > 1200
    assert seeded_frames(1).tolist() == [0]


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"nonsense, long enough to be read"])
def test_a_file_that_is_something_else_is_refused(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match="convert again with --keep-reference"):
        read_kept(tmp_path / FILE)
