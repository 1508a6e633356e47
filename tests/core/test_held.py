"""What is held stays what it was, whatever becomes of its name; and what is not, is told."""

import hashlib
import mmap
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whisper2max.core.errors import ArtifactError, CheckpointError
from whisper2max.core.held import HeldFile, HeldFiles

CONTENT = b"held " * 1000


@pytest.fixture
def path(tmp_path) -> Path:
    """A file whose times are old enough to tell of changes."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    time.sleep(0.06)
    return path


@pytest.fixture
def held(path) -> HeldFile:
    return HeldFile(path, ArtifactError)


def write_in_place(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"evil")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"evil " * 1000)
    os.replace(other, path)


def write_anew(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"evil " * 1000)


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def shorten(path: Path) -> None:
    os.truncate(path, 7)


def write_through_a_map(path: Path) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        shared[:4] = b"evil"


CHANGES = [write_in_place, replace, write_anew, append, shorten, write_through_a_map]


def test_a_file_gives_what_it_holds(held, path, tmp_path):
    assert (held.path, held.size, held.sha256) == (path, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert held.read(len(CONTENT)) == bytes(held.map()) == CONTENT
    held.copy_to(tmp_path / "copy")
    held.link_to(tmp_path / "link")
    assert (tmp_path / "copy").read_bytes() == CONTENT and os.path.samefile(tmp_path / "link", path)
    held.require_unchanged()
    held.require_unchanged(reread=True)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_told(held, path, change):
    assert held.sha256
    change(path)
    for reread in (False, True):
        with pytest.raises(ArtifactError, match="file was changed while it was in use"):
            held.require_unchanged(reread=reread)


@pytest.mark.parametrize("change", [write_in_place, append, shorten])
def test_nothing_but_what_was_hashed_is_given(held, path, tmp_path, change):
    assert held.sha256
    change(path)
    with pytest.raises(ArtifactError, match="changed"):
        held.read(1 << 20)
    with pytest.raises(ArtifactError, match="changed"):
        held.copy_to(tmp_path / "copy")
    with pytest.raises(ArtifactError, match="changed"), held.sealed():
        pass


@pytest.mark.parametrize("change", [replace, write_anew, Path.unlink])
def test_what_is_held_outlives_its_name(held, path, tmp_path, change):
    change(path)
    assert held.read(1 << 20) == bytes(held.map()) == CONTENT
    with held.sealed() as copy:
        assert copy.read_bytes() == CONTENT
    held.link_to(tmp_path / "link")
    assert (tmp_path / "link").read_bytes() == CONTENT


def test_a_change_in_the_tick_of_the_clock_in_which_it_was_opened_is_told(tmp_path):
    for _ in range(20):
        path = tmp_path / "file"
        path.write_bytes(CONTENT)
        held = HeldFile(path, ArtifactError)
        assert held.sha256
        write_in_place(path)
        with pytest.raises(ArtifactError, match="changed"):
            held.require_unchanged()


def test_a_file_that_was_read_again_need_not_be_read_each_time(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    held = HeldFile(path, ArtifactError)  # in the tick of the clock in which it was written
    assert held.sha256
    time.sleep(0.06)
    held.require_unchanged()
    reads = []
    monkeypatch.setattr(held, "_hash", lambda: reads.append(True) or held.sha256)
    held.require_unchanged()
    assert reads == []
    write_in_place(path)
    held.require_unchanged()
    assert reads == [True]


def test_what_a_shared_map_wrote_before_is_seen_by_reading_again(path):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        shared[0] = CONTENT[0]  # from now on the kernel notes no further change until it has written the page
        time.sleep(0.06)
        held = HeldFile(path, ArtifactError)
        assert held.sha256
        shared[:4] = b"evil"
        with pytest.raises(ArtifactError, match="changed"):
            held.require_unchanged(reread=True)


def test_without_a_hash_a_touched_file_counts_as_changed(held, path):
    held.require_unchanged(reread=True)
    os.utime(path)
    with pytest.raises(ArtifactError, match="changed"):
        held.require_unchanged()


def test_a_touched_file_of_the_same_content_is_the_same(held, path):
    assert held.sha256
    os.utime(path)
    path.chmod(0o600)
    held.require_unchanged()


def test_a_file_that_moved_with_its_directory_is_whole(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(CONTENT)
    held = HeldFile(tmp_path / "a" / "file", ArtifactError)
    (tmp_path / "a").rename(tmp_path / "b")
    held.require_unchanged(reread=True)


def test_a_sealed_copy_cannot_be_changed(held):
    with held.sealed() as copy, pytest.raises(PermissionError), open(copy, "r+b") as file:
        file.write(b"evil")


def test_a_map_is_private(held, path):
    held.map()[:4] = b"mine"
    assert path.read_bytes() == CONTENT


def test_only_regular_files_are_held(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path / "folder", tmp_path / "pipe", Path("/dev/zero"), "/proc/self/mem/x", "zero\0byte", "x" * 300):
        with pytest.raises(CheckpointError, match=r"is not a regular file|cannot be opened \(|cannot be a file name"):
            HeldFile(odd, CheckpointError)


def test_a_link_is_followed_only_if_wanted(path, tmp_path):
    (tmp_path / "link").symlink_to("file")
    assert HeldFile(tmp_path / "link", ArtifactError).read(1 << 20) == CONTENT
    with pytest.raises(ArtifactError, match="link is not a regular file"):
        HeldFile(tmp_path / "link", ArtifactError, follow=False)


def test_what_is_larger_than_can_be_is_not_read(tmp_path):
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ArtifactError, match=r"1,099,511,627,776 bytes; no such file of a Whisper has more than 1,000"):
        HeldFile(path, ArtifactError).read(1000)
    path.unlink()  # other tests read whole directories of temporary files


def test_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    held = HeldFile(tmp_path / "empty", ArtifactError)
    assert held.read(0) == b"" and held.sha256 == hashlib.sha256().hexdigest()
    with pytest.raises(ArtifactError, match="empty is empty"):
        held.map()


def test_a_closed_file_is_never_mistaken_for_another(held, path, tmp_path):
    mapped = held.map()
    held.close()
    (tmp_path / "other").write_bytes(b"evil")
    with open(tmp_path / "other", "rb"):
        for use in (lambda: held.read(99999), held.map, held.require_unchanged):
            with pytest.raises(ArtifactError, match="was closed"):
                use()
    assert bytes(mapped) == CONTENT


def test_a_file_is_closed_when_nobody_holds_it(path):
    before = len(os.listdir("/proc/self/fd"))
    held = HeldFile(path, ArtifactError)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del held
    assert len(os.listdir("/proc/self/fd")) == before


def test_programs_that_are_started_inherit_nothing(held):
    code = "import os; names = os.listdir('/proc/self/fd'); "
    code += "print(sum('file' in os.path.realpath(f'/proc/self/fd/{n}') for n in names))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, close_fds=False, check=True)
    assert run.stdout == "0\n"


def test_files_of_a_directory(tmp_path):
    (tmp_path / "kernels").mkdir()
    contents = {"a": b"1", "kernels/b": b"22", "c": b"333"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = HeldFiles(tmp_path, ["a", "kernels/b"], ArtifactError)
    files.hold(["c"])
    assert files.sha256() == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    files.require_unchanged()
    write_in_place(tmp_path / "kernels" / "b")
    with pytest.raises(ArtifactError, match=r"kernels/b was changed"):
        files.require_unchanged()
    (tmp_path / "d").symlink_to("a")
    with pytest.raises(ArtifactError, match="d is not a regular file"):
        files.hold(["d"])
    files.close()
    with pytest.raises(ArtifactError, match="was closed"):
        files["a"].read(1)
    shutil.rmtree(tmp_path / "kernels")
