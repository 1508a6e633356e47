import errno
import os
import subprocess
import sys

import pytest

from whisper2max.core import partials
from whisper2max.core.partials import PartialDirectory, exchange, sweep, sync_tree, tree_bytes


def test_a_partial_directory_is_empty_and_named_after_its_destination(tmp_path):
    partial = PartialDirectory(tmp_path, "base")
    assert partial.path.parent == tmp_path
    assert partial.path.name.startswith(f".base.partial-{os.getpid()}-")
    assert list(partial.path.iterdir()) == []
    partial.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_spares_the_living_and_removes_the_dead(tmp_path):
    living = PartialDirectory(tmp_path, "base")
    code = "import sys, os, signal; from pathlib import Path; "
    code += "from whisper2max.core.partials import PartialDirectory; "
    code += "p = PartialDirectory(Path(sys.argv[1]), 'base'); (p.path / 'x').write_bytes(bytes(100)); "
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert sweep(tmp_path, "base") == 100
    assert list(tmp_path.iterdir()) == [living.path]
    living.release()
    assert sweep(tmp_path, "base") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_keeps_to_the_name_and_the_pattern(tmp_path):
    kept = ["base", ".base", ".base.partial-1", ".base.partial-x-00000000", ".base.int8.partial-1-00000000"]
    for name in [*kept, ".base.partial-1-0123abcd"]:
        (tmp_path / name).mkdir()
    (tmp_path / ".base.partial-1-aaaaaaaa").symlink_to("base")
    sweep(tmp_path, "base")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, ".base.partial-1-aaaaaaaa"}
    sweep(tmp_path)
    assert ".base.int8.partial-1-00000000" not in {path.name for path in tmp_path.iterdir()}


def test_a_name_with_a_pattern_in_it_is_taken_literally(tmp_path):
    (tmp_path / ".axb.partial-1-0123abcd").mkdir()
    sweep(tmp_path, "a.b")
    assert (tmp_path / ".axb.partial-1-0123abcd").exists()


def test_a_directory_that_a_sweep_took_is_made_again(tmp_path, monkeypatch):
    """A sweep may find the directory in the moment between its creation and its lock."""
    real, taken = partials._open_directory, []

    def swept_first(path):
        if not taken:
            taken.append(path)
            path.rmdir()
        return real(path)

    monkeypatch.setattr(partials, "_open_directory", swept_first)
    partial = PartialDirectory(tmp_path, "base")
    assert taken[0] != partial.path
    assert list(tmp_path.iterdir()) == [partial.path]


def test_an_error_of_the_system_is_not_retried(tmp_path, monkeypatch):
    def no_descriptors(path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(partials, "_open_directory", no_descriptors)
    with pytest.raises(OSError, match="Too many open files"):
        PartialDirectory(tmp_path, "base")


def test_exchange_swaps_two_directories(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    try:
        exchange(tmp_path / "a", tmp_path / "b")
    except OSError as error:
        pytest.skip(f"the filesystem of {tmp_path} cannot exchange directories: {error.strerror}")
    assert (tmp_path / "a" / "who").read_text() == "b"
    assert (tmp_path / "b" / "who").read_text() == "a"


def test_exchange_with_nothing_says_so(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match="nothing"):
        exchange(tmp_path / "a", tmp_path / "nothing")
    assert (tmp_path / "a").is_dir()


def test_sync_and_size_of_a_tree(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(10))
    (tmp_path / "file").write_bytes(bytes(5))
    sync_tree(tmp_path)
    assert len(synced) == 5
    assert tree_bytes(tmp_path) == 15
