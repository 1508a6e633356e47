import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from artifact_samples import contents, manifest_fields, write_artifact, write_files

from whisper2max.artifact import publication as publication_module
from whisper2max.artifact.artifact import open_artifact
from whisper2max.artifact.manifest import write_manifest
from whisper2max.artifact.publication import Publication
from whisper2max.core.errors import ArtifactError, BuildError, UsageError
from whisper2max.core.partials import sweep

HELPERS = Path(__file__).parents[1] / "helpers"
SEED = 20260101


def publish(output, content="new", force=False):
    with Publication(output, force) as staging:
        write_files(staging, content)
        write_manifest(staging, manifest_fields(name=content))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def name_of(output):
    """The name that a complete artifact was published under; raises if it is not complete."""
    return open_artifact(output).manifest["name"]


class TestPublishing:
    def test_a_fresh_output_appears_with_its_parents(self, tmp_path):
        publish(tmp_path / "made" / "too" / "base")
        assert name_of(tmp_path / "made" / "too" / "base") == "new"
        assert names(tmp_path / "made" / "too") == ["base"]

    def test_nothing_appears_before_the_end(self, tmp_path):
        with Publication(tmp_path / "base") as staging:
            assert staging.parent == tmp_path
            assert not (tmp_path / "base").exists()
            write_files(staging)
            write_manifest(staging, manifest_fields())
        assert names(tmp_path) == ["base"]

    def test_an_empty_directory_is_filled(self, tmp_path):
        (tmp_path / "base").mkdir()
        publish(tmp_path / "base")
        assert name_of(tmp_path / "base") == "new"

    def test_an_artifact_is_replaced_only_by_force(self, tmp_path):
        write_artifact(tmp_path / "base", "old")
        with pytest.raises(UsageError, match="base exists already. Give --force"):
            publish(tmp_path / "base")
        assert name_of(tmp_path / "base") == "old"
        publish(tmp_path / "base", force=True)
        assert name_of(tmp_path / "base") == "new"
        assert names(tmp_path) == ["base"]

    def test_a_damaged_artifact_can_be_replaced(self, tmp_path):
        (write_artifact(tmp_path / "base") / "model.py").unlink()
        publish(tmp_path / "base", force=True)
        assert name_of(tmp_path / "base") == "new"

    def test_a_link_is_followed(self, tmp_path):
        write_artifact(tmp_path / "data" / "real", "old")
        (tmp_path / "base").symlink_to("data/real")
        publish(tmp_path / "base", force=True)
        assert (tmp_path / "base").is_symlink()
        assert name_of(tmp_path / "data" / "real") == "new"
        assert names(tmp_path / "data") == ["real"]

    def test_everything_is_on_the_disk_before_it_is_in_place(self, tmp_path, monkeypatch):
        steps = []
        for step in ("sync_tree", "sync", "exchange"):
            real = getattr(publication_module, step)
            monkeypatch.setattr(publication_module, step, lambda *a, s=step, r=real: (steps.append(s), r(*a)))
        write_artifact(tmp_path / "base", "old")
        publish(tmp_path / "base", force=True)
        assert steps == ["exchange", "sync_tree", "exchange", "sync"]  # the first exchange is a trial

    def test_permissions_follow_the_umask(self, tmp_path):
        before = os.umask(0o027)
        try:
            publish(tmp_path / "base")
        finally:
            os.umask(before)
        assert (tmp_path / "base").stat().st_mode & 0o777 == 0o750

    def test_what_could_not_be_opened_is_not_published(self, tmp_path):
        with (
            pytest.raises(ArtifactError, match=r"no manifest\.json was written"),
            Publication(tmp_path / "base") as s,
        ):
            write_files(s)
        with (
            pytest.raises(ArtifactError, match="late.txt is not listed"),
            Publication(tmp_path / "base") as s,
        ):
            write_files(s)
            write_manifest(s, manifest_fields())
            (s / "late.txt").write_text("written after the manifest")
        assert names(tmp_path) == []


class TestFailures:
    def test_an_exception_leaves_nothing_behind(self, tmp_path):
        with pytest.raises(BuildError), Publication(tmp_path / "made" / "base") as staging:
            write_files(staging)
            raise BuildError("the compiler failed")
        assert names(tmp_path) == []

    def test_an_exception_leaves_the_old_artifact(self, tmp_path):
        before = contents(write_artifact(tmp_path / "base", "old"))
        with pytest.raises(KeyboardInterrupt), Publication(tmp_path / "base", force=True) as staging:
            write_files(staging)
            raise KeyboardInterrupt
        assert contents(tmp_path / "base") == before
        assert names(tmp_path) == ["base"]

    def test_fail_keeps_sources_and_reports(self, tmp_path):
        write_artifact(tmp_path / "base", "old")
        publication = Publication(tmp_path / "base", force=True)
        with publication as staging:
            write_files(staging)
            (staging / "graph.txt").write_text("encoder")
            write_manifest(staging, manifest_fields())
            assert publication.fail("Layer encoder.blocks.0\n diverges.") == tmp_path / "base.failed"
        assert names(tmp_path) == ["base", "base.failed"]
        assert name_of(tmp_path / "base") == "old"
        assert sorted(contents(tmp_path / "base.failed")) == [
            "FAILED.txt",
            "generation.json",
            "graph.txt",
            "kernels/attention.mojo",
            "model.py",
            "parity.html",
            "parity.json",
            "tokenizer.json",
        ]
        text = (tmp_path / "base.failed" / "FAILED.txt").read_text()
        assert text.count("\n") == 1
        for part in (
            "Layer encoder.blocks.0 diverges. Nothing was published",
            "cannot be loaded",
            "parity.html",
        ):
            assert part in text
        with pytest.raises(ArtifactError, match="failed conversion"):
            open_artifact(tmp_path / "base.failed")

    def test_fail_replaces_an_older_failure(self, tmp_path):
        for reason in ("First.", "Second."):
            publication = Publication(tmp_path / "base")
            with pytest.raises(RuntimeError), publication as staging:
                (staging / f"{reason}txt").write_text("")
                publication.fail(reason)
                raise RuntimeError
        assert names(tmp_path / "base.failed") == ["FAILED.txt", "Second.txt"]
        assert names(tmp_path) == ["base.failed"]

    def test_a_directory_of_the_user_is_not_replaced_by_a_failure(self, tmp_path):
        (tmp_path / "base.failed").mkdir()
        (tmp_path / "base.failed" / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match=r"base\.failed exists and is not what a failed conversion left"):
            publish(tmp_path / "base")
        assert names(tmp_path / "base.failed") == ["notes.txt"]


class TestOutputsThatCannotBe:
    def refused(self, output, message, force=True):
        before = contents(output.parents[1])
        with pytest.raises(UsageError, match=message):
            publish(output, force=force)
        assert contents(output.parents[1]) == before

    def test_under_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        self.refused(tmp_path / "file" / "x", "file is a file. Choose an --output in a directory")
        self.refused(tmp_path / "file" / "deep" / "x", "file is a file. Choose an --output in a directory")

    def test_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        self.refused(tmp_path / "file", "file is a file; an artifact is a directory")

    @pytest.mark.parametrize("manifest", [None, "{}", '{"name": "a web application"}', "not json"])
    def test_a_directory_that_is_not_an_artifact(self, tmp_path, manifest):
        output = tmp_path / "photos"
        output.mkdir()
        (output / "holiday.jpg").write_text("")
        if manifest is not None:
            (output / "manifest.json").write_text(manifest)
        self.refused(output, "photos exists and is not an artifact, so it is never overwritten")

    def test_a_link_to_nowhere_gets_its_target(self, tmp_path):
        (tmp_path / "base").symlink_to("real")
        publish(tmp_path / "base")
        assert name_of(tmp_path / "real") == "new"

    def test_a_name_of_failures(self, tmp_path):
        self.refused(tmp_path / "base.failed", "names that end in .failed")

    def test_the_current_directory(self, tmp_path, monkeypatch):
        (tmp_path / "here" / "deep").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "here" / "deep")
        for output in (tmp_path / "here", Path("."), Path("..")):
            with pytest.raises(UsageError, match="is the current directory or contains it"):
                publish(output, force=True)

    def test_the_root(self):
        with pytest.raises(UsageError, match="cannot be the name of an artifact"):
            publish(Path("/"), force=True)

    def test_a_mount_point(self, tmp_path, monkeypatch):
        (tmp_path / "volume").mkdir()
        monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "volume")
        self.refused(tmp_path / "volume", "is a mount point.*volume/base")

    def test_a_parent_that_cannot_be_written(self, tmp_path, monkeypatch):
        def denied(self, *args, **kwargs):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))

        monkeypatch.setattr(publication_module, "PartialDirectory", denied)
        self.refused(tmp_path / "deep" / "base", "cannot be written .*Permission denied.*Choose an --output")
        assert names(tmp_path) == []

    @pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="no /sys to try to write to")
    def test_a_system_directory_that_nobody_can_write(self):
        with pytest.raises(UsageError, match="cannot be written"):
            publish(Path("/sys/kernel/base"))


class TestExchangeUnsupported:
    def test_is_said_before_the_work_begins(self, tmp_path, monkeypatch):
        def unsupported(first, second):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        write_artifact(tmp_path / "base", "old")
        monkeypatch.setattr(publication_module, "exchange", unsupported)
        with pytest.raises(ArtifactError, match="cannot exchange directories.*Remove it yourself first"):
            Publication(tmp_path / "base", force=True).__enter__()
        assert names(tmp_path) == ["base"]
        assert name_of(tmp_path / "base") == "old"
        publish(tmp_path / "fresh")
        assert name_of(tmp_path / "fresh") == "new"


class TestFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small tmpfs needs root and the right to mount")
        yield disk
        subprocess.run(["umount", "-l", str(disk)], check=True)

    def test_leaves_the_old_artifact_and_says_what_is_needed(self, small_disk):
        before = contents(write_artifact(small_disk / "base", "old"))
        with (
            pytest.raises(ArtifactError, match="The disk of .*base is full .*No space left") as error,
            Publication(small_disk / "base", force=True) as staging,
        ):
            for number in range(100):
                (staging / f"{number}.bin").write_bytes(bytes(20_000))
        free = shutil.disk_usage(small_disk).free
        assert f"it needs more than the {free:,} bytes that are free now" in str(error.value)
        assert names(small_disk) == ["base"]
        assert contents(small_disk / "base") == before

    def test_leaves_no_new_parents(self, small_disk):
        with (
            pytest.raises(ArtifactError, match="is full"),
            Publication(small_disk / "a" / "b" / "base") as staging,
        ):
            (staging / "weights.safetensors").write_bytes(bytes(2 << 20))
        assert names(small_disk) == []

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            RuntimeError("I/O error: No space left on device (os error 28)"),
        ],
    )
    def test_is_recognised_behind_errors_of_libraries(self, tmp_path, monkeypatch, error):
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(publication_module.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(
            ArtifactError, match=r"is full .* 7 bytes of the artifact.* more than the 1,000 bytes"
        ):
            with Publication(tmp_path / "base") as staging:
                (staging / "file").write_bytes(bytes(7))
                try:
                    raise error
                except (OSError, RuntimeError) as cause:
                    raise BuildError("weights could not be written") from cause
        assert names(tmp_path) == []

    def test_of_another_disk_is_not_blamed_on_the_output(self, tmp_path):
        with pytest.raises(OSError, match="No space left"), Publication(tmp_path / "base"):
            raise OSError(errno.ENOSPC, "No space left on device", "elsewhere")


class TestCompetition:
    def start(self, *arguments):
        command = [sys.executable, str(HELPERS / "publish_sample.py"), *map(str, arguments)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def test_of_several_processes_without_force_one_wins(self, tmp_path):
        processes = [self.start(tmp_path / "base", f"new{number}", "fresh") for number in range(4)]
        errors = [process.communicate()[1] for process in processes]
        codes = [process.returncode for process in processes]
        assert sorted(codes) == [0, 2, 2, 2]
        assert name_of(tmp_path / "base") == f"new{codes.index(0)}"
        assert all("exists already" in error for code, error in zip(codes, errors, strict=True) if code)
        assert names(tmp_path) == ["base"]

    def test_with_force_the_last_wins_and_none_fails(self, tmp_path):
        processes = [self.start(tmp_path / "base", f"new{number}", "force") for number in range(4)]
        assert [process.communicate()[1] for process in processes] == [""] * 4
        assert name_of(tmp_path / "base") in {f"new{number}" for number in range(4)}
        assert names(tmp_path) == ["base"]

    def test_an_output_that_appears_meanwhile_is_not_replaced_without_force(self, tmp_path):
        with pytest.raises(UsageError, match="exists already"), Publication(tmp_path / "base") as staging:
            write_files(staging)
            write_manifest(staging, manifest_fields())
            write_artifact(tmp_path / "base", "other")
        assert name_of(tmp_path / "base") == "other"
        assert names(tmp_path) == ["base"]

    def test_photos_that_appear_meanwhile_are_not_replaced_by_force(self, tmp_path):
        with (
            pytest.raises(UsageError, match="never overwritten"),
            Publication(tmp_path / "base", True) as staging,
        ):
            write_files(staging)
            write_manifest(staging, manifest_fields())
            (tmp_path / "base").mkdir()
            (tmp_path / "base" / "holiday.jpg").write_text("")
        assert names(tmp_path / "base") == ["holiday.jpg"]


class TestKilled:
    """SIGKILL at any moment: the output is the complete old or the complete new artifact."""

    def run_to(self, where, output, content, mode):
        command = [
            sys.executable,
            HELPERS / "kill_at_line.py",
            where,
            HELPERS / "publish_sample.py",
            output,
            content,
            mode,
        ]
        return subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)

    def points(self, tmp_path, mode, old, count):
        """Points of an undisturbed run as function names, and a seeded choice of them.

        `count` are drawn from all points, so most fall into the writing and checking of files. The others
        make sure of the stages that take few lines, and of each line that puts the artifact in place.
        """
        output = tmp_path / "rehearsal" / "base"
        if old:
            write_artifact(output, "old")
        result = self.run_to(tmp_path / "points", output, "new", mode)
        assert result.returncode == 0, result.stderr
        functions = (tmp_path / "points").read_text().split("\n")
        generator = random.Random(SEED)
        chosen = generator.sample(range(len(functions)), count)
        for stage in ("_check_name", "sync", "exchange", "fail", "_rmtree_safe_fd", "discard"):
            at = [index for index, function in enumerate(functions) if function == stage]
            chosen += generator.sample(at, min(len(at), 1)) + at[-1:]
        chosen += [index for index, function in enumerate(functions) if function == "_put_in_place"]
        return functions, chosen

    def kill_at_each(self, tmp_path, mode, old, count):
        """Kills at each chosen point, always from the same start; gives the outcomes and leftovers seen."""
        functions, chosen = self.points(tmp_path, mode, old, count)

        def one(number):
            output = tmp_path / str(number) / "base"
            before = contents(write_artifact(output, "old")) if old else {}
            output.parent.mkdir(exist_ok=True)
            where = f"point {chosen[number]}, in {functions[chosen[number]]}"
            result = self.run_to(chosen[number], output, "new", mode)
            assert result.returncode == -signal.SIGKILL, (where, result.stderr)
            left = [path.name for path in output.parent.iterdir() if path.name.startswith(".base.partial-")]
            assert len(left) <= 1, where
            sweep(output.parent, "base")
            assert set(names(output.parent)) <= {"base", "base.failed"}, where
            if contents(output) == before:
                return "old", len(left)
            assert name_of(output) == "new", where
            return "new", len(left)

        with ThreadPoolExecutor(max_workers=2) as pool:
            return Counter(pool.map(one, range(len(chosen))))

    def test_while_replacing(self, tmp_path):
        seen = self.kill_at_each(tmp_path, "force", old=True, count=12)
        assert {("old", 0), ("old", 1), ("new", 0), ("new", 1)} == set(seen)
        assert seen.total() >= 20

    def test_while_publishing_a_fresh_output(self, tmp_path):
        seen = self.kill_at_each(tmp_path, "fresh", old=False, count=3)
        assert {("old", 1), ("new", 0)} <= set(seen)

    def test_while_leaving_a_failure(self, tmp_path):
        seen = self.kill_at_each(tmp_path, "fail", old=True, count=3)
        assert {("old", 0), ("old", 1)} == set(seen)

    def test_at_any_time(self, tmp_path):
        """Moments inside system calls too: a process that publishes again and again, killed by the clock."""
        output = tmp_path / "base"
        write_artifact(output, "old")
        generator = random.Random(SEED)
        command = [sys.executable, str(HELPERS / "publish_sample.py"), str(output)]
        seen = []
        for number in range(8):
            with subprocess.Popen(
                [*command, f"run{number}", "loop"], stdout=subprocess.PIPE, text=True
            ) as child:
                seconds = float(child.stdout.readline())
                time.sleep(generator.uniform(0, 2 * seconds))
                child.kill()
            seen.append(name_of(output))
            assert len(names(tmp_path)) <= 2, "a run removes what a killed one left"
        assert {name.partition(".")[0] for name in seen} == {f"run{number}" for number in range(8)}
        assert {name.partition(".")[2] for name in seen} > {"0"}
        publish(output, "last", force=True)
        assert names(tmp_path) == ["base"]
