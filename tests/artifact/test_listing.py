"""What lies in a directory, looked at in bounded time."""

import os
from hashlib import sha256

import pytest

from whisper2max.artifact.listing import check_hashes, scan
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFiles


def test_files_and_what_else_is_there(tmp_path):
    (tmp_path / "kernels" / "more").mkdir(parents=True)
    for name in ("manifest.json", "model.py", "kernels/b.mojo", "kernels/more/c", "kernels/manifest.json"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("kernels")
    os.mkfifo(tmp_path / "kernels" / "pipe")
    names, odd = scan(tmp_path)
    assert names == ["kernels/b.mojo", "kernels/manifest.json", "kernels/more/c", "model.py"]
    assert odd == {"link": "a symbolic link", "kernels/pipe": "not a regular file"}


def test_a_link_that_leads_round_in_a_circle_is_not_followed(tmp_path):
    (tmp_path / "round").symlink_to(tmp_path)
    assert scan(tmp_path) == ([], {"round": "a symbolic link"})


def test_depth_is_bounded(tmp_path):
    deepest = tmp_path.joinpath(*"abcdefg")
    deepest.mkdir(parents=True)
    (deepest / "file").touch()
    assert scan(tmp_path)[0] == ["a/b/c/d/e/f/g/file"]
    (deepest / "h").mkdir()
    (deepest / "h" / "file").touch()
    with pytest.raises(ArtifactError, match="8 directories in each other"):
        scan(tmp_path)


def test_a_file_of_another_size_is_not_even_read(tmp_path):
    (tmp_path / "a").write_text("1")
    record = {"sha256": sha256(b"1").hexdigest(), "bytes": 1}
    check_hashes(HeldFiles(tmp_path, ["a"], ArtifactError), {"files": {"a": record}})
    os.truncate(tmp_path / "a", 1 << 40)
    with pytest.raises(ArtifactError, match="a does not have the sha256 of the manifest"):
        check_hashes(HeldFiles(tmp_path, ["a"], ArtifactError), {"files": {"a": record}})
    (tmp_path / "a").unlink()
