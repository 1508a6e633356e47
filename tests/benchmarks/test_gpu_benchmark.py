"""What travels to a lent GPU arrives whole, and what is measured there survives failures. No GPU, MAX or network."""

import json
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gpu import report as reports
from gpu.pack import FAST, pack_tree, pack_whisper2max, unpack_wheel
from gpu.parts import Budget, NotHere, Part, Record, run_parts
from gpu.pieces import collect, join, read_manifest, split
from gpu.planes import compressed, restored
from gpu.race import Contender, race
from gpu.samples import WINDOW, different_windows, long_recording, window
from gpu.supervise import RESTART, supervise
from gpu.unpack import INCOMPLETE, PROGRAMS, WEIGHTS, unpack
from gpu.values import difference, errors

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RANDOM = np.random.default_rng(0)


# ---------------------------------------------------------------------------------------- pieces


@pytest.fixture
def cut(tmp_path):
    """A file of 1000 bytes in pieces of at most 300."""
    file, out = tmp_path / "file", tmp_path / "out"
    file.write_bytes(RANDOM.bytes(1000))
    return file, out, split(file, out, limit=300, python="3.12")


def test_pieces_are_few_and_alike(cut):
    file, out, manifest = cut
    assert [piece["bytes"] for piece in manifest["pieces"]] == [250] * 4
    assert [(out / piece["name"]).stat().st_size for piece in manifest["pieces"]] == [250] * 4
    assert read_manifest(out) == manifest and manifest["python"] == "3.12"


def test_pieces_of_another_file_go(cut):
    file, out, _ = cut
    file.write_bytes(b"short")
    assert [piece["name"] for piece in split(file, out, limit=300)["pieces"]] == ["piece.01"]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "piece.01"]


def test_pieces_come_one_after_the_other(cut, tmp_path):
    file, out, manifest = cut
    kept, call = tmp_path / "kept", tmp_path / "call"
    for number in range(1, 5):
        call.mkdir(exist_ok=True)
        (out / f"piece.{number:02}").rename(call / f"piece.{number:02}")
        missing, damaged = collect(call, kept, manifest)
        assert missing == [f"piece.{later:02}" for later in range(number + 1, 5)] and not damaged
        (call / f"piece.{number:02}").unlink()
    join(kept, tmp_path / "whole", manifest)
    assert (tmp_path / "whole").read_bytes() == file.read_bytes()


def test_a_damaged_piece_is_named_and_not_kept(cut, tmp_path):
    _, out, manifest = cut
    data = bytearray((out / "piece.02").read_bytes())
    data[100] ^= 1
    (out / "piece.02").write_bytes(data)
    assert collect(out, tmp_path / "kept", manifest) == (["piece.02"], ["piece.02"])
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["piece.01", "piece.03", "piece.04"]


def test_what_was_damaged_or_replaced_meanwhile_is_asked_for_again(cut, tmp_path):
    _, out, manifest = cut
    kept, nothing = tmp_path / "kept", tmp_path / "nothing"
    collect(out, kept, manifest)
    (kept / "piece.03").write_bytes(b"cut off")
    (kept / "piece.09").write_bytes(b"of another kit")
    assert collect(nothing, kept, manifest) == (["piece.03"], [])
    assert not (kept / "piece.09").exists()


def test_a_whole_that_is_another_is_refused(cut, tmp_path):
    _, out, manifest = cut
    with pytest.raises(ValueError, match="another file"):
        join(out, tmp_path / "whole", {**manifest, "sha256": "0" * 64})


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="manifest.json"):
        read_manifest(tmp_path)


# ---------------------------------------------------------------------------------------- weights


def bfloat16(count: int) -> bytes:
    """Random numbers as weights are, their upper halves."""
    return (RANDOM.standard_normal(count, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()


@pytest.mark.parametrize(
    "data",
    [
        bfloat16(1000),
        RANDOM.standard_normal(1000, np.float32).tobytes(),
        bfloat16(10) + b"x",
        b"x",
        b"",
        RANDOM.bytes(4096),
        np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], np.float32).tobytes(),
    ],
    ids=["bfloat16", "float32", "odd", "one byte", "nothing", "noise", "special"],
)
def test_weights_come_back_bit_by_bit(data):
    assert restored(compressed(data)) == data


def test_bfloat16_becomes_smaller():
    data = bfloat16(1 << 18)
    assert len(compressed(data)) < 0.75 * len(data)


@pytest.mark.parametrize("place", [0, 30, 200, -1])
def test_damaged_weights_are_refused(place):
    stream = bytearray(compressed(bfloat16(1000)))
    stream[place] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        restored(bytes(stream))


# ---------------------------------------------------------------------------------------- packing and unpacking


@pytest.fixture
def kit(tmp_path):
    """A small kit in three pieces, and its weights."""
    tree = tmp_path / "tree"
    for name, text in (("site/package/module.py", "x = 1"), ("artifact/step.mef", "code"), ("samples/a.flac", "sound")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tree / "site" / "tool").touch(mode=0o755)
    weights = bfloat16(5000)
    pack_tree(tree, tmp_path / PROGRAMS, FAST)
    (tmp_path / WEIGHTS).write_bytes(compressed(weights))
    with tarfile.open(tmp_path / "whole.tar", "w") as outer:
        for name in (PROGRAMS, WEIGHTS):
            outer.add(tmp_path / name, name)
    size = (tmp_path / "whole.tar").stat().st_size
    split(tmp_path / "whole.tar", tmp_path / "pieces", limit=size // 3 + 1)
    return tmp_path / "pieces", weights


def test_a_kit_is_unpacked_when_all_of_it_is_there(kit, tmp_path, capsys):
    pieces, weights = kit
    dest, later = tmp_path / "dest", tmp_path / "later"
    (pieces / "piece.02").rename(later)
    assert unpack(pieces, dest) == INCOMPLETE
    assert "still missing: piece.02, of 3 pieces" in capsys.readouterr().out
    for number in (1, 3):
        (pieces / f"piece.{number:02}").unlink()
    later.rename(pieces / "piece.02")
    assert unpack(pieces, dest) == 0
    assert (dest / "artifact" / "weights.safetensors").read_bytes() == weights
    assert (dest / "site" / "package" / "module.py").read_text() == "x = 1"
    assert (dest / "site" / "tool").stat().st_mode & 0o100
    assert sorted(path.name for path in dest.iterdir()) == ["artifact", "manifest.json", "samples", "site"]
    before = (dest / "site" / "tool").stat()
    assert unpack(pieces, dest) == 0
    assert "complete already" in capsys.readouterr().out
    assert (dest / "site" / "tool").stat() == before


def test_a_damaged_piece_is_asked_for_again(kit, tmp_path, capsys):
    pieces, _ = kit
    data = (pieces / "piece.01").read_bytes()
    (pieces / "piece.01").write_bytes(data[:-1])
    assert unpack(pieces, tmp_path / "dest") == INCOMPLETE
    assert "piece.01 is damaged" in capsys.readouterr().out
    (pieces / "piece.01").write_bytes(data)
    assert unpack(pieces, tmp_path / "dest") == 0


def test_a_new_kit_takes_the_place_of_an_old_one_and_of_nothing_else(kit, tmp_path):
    pieces, _ = kit
    dest = tmp_path / "dest"
    assert unpack(pieces, dest) == 0
    (dest / "site" / "old.py").touch()
    (dest / "notes").touch()
    manifest = read_manifest(dest)
    (dest / "manifest.json").write_text(json.dumps({**manifest, "sha256": "0" * 64}))
    assert unpack(pieces, dest) == 0
    assert not (dest / "site" / "old.py").exists() and (dest / "notes").exists()


def test_unpacking_needs_python_and_numpy_alone(kit, tmp_path):
    program = BENCHMARKS / "gpu" / "unpack.py"
    script = f"""
import runpy, sys
sys.modules |= dict.fromkeys(["torch", "max", "whisper2max", "av"])
sys.argv = ["", {str(kit[0])!r}, {str(tmp_path / "dest")!r}]
sys.path.insert(0, "")
runpy.run_path({str(program)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "unpacked into" in done.stdout


def test_a_wheel_is_unpacked_as_pip_does(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a/__init__.py", "")
        wheel.writestr("a-1.data/platlib/b/lib.so", "code")
        wheel.writestr("a-1.data/scripts/a", "program")
        wheel.writestr("a-1.dist-info/METADATA", "Version: 1")
        wheel.writestr("a-1.dist-info/RECORD", "")
    site = tmp_path / "site"
    unpack_wheel(tmp_path / "a.whl", site)
    files = sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file())
    assert files == ["a-1.dist-info/METADATA", "a/__init__.py", "b/lib.so"]


def test_the_packed_package_is_whole(tmp_path):
    pack_whisper2max(tmp_path)
    script = "import whisper2max.runtime.options, whisper2max.artifact.artifact; print(whisper2max.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout.strip() == str(tmp_path / "whisper2max" / "__init__.py"), done.stderr
    for name in ("kernels/step.mojo", "templates/model.py.j2", "samples/speech.flac", "graph/converters/__init__.py"):
        assert (tmp_path / "whisper2max" / name).exists()


# ---------------------------------------------------------------------------------------- recordings and values


def test_windows_have_thirty_seconds():
    pieces = {"a": np.ones(100, np.float32), "b": np.zeros(WINDOW, np.float32)}
    assert window(pieces["a"]).shape == (WINDOW,) and window(pieces["a"]).sum() == 100
    assert np.array_equal(window(np.arange(WINDOW + 5, dtype=np.float32)), np.arange(WINDOW, dtype=np.float32))
    assert long_recording(pieces, 3).shape == (3 * WINDOW,)
    first, second = different_windows(pieces, 2)
    assert first.shape == second.shape == (WINDOW,) and not np.array_equal(first, second)
    assert first.dtype == np.float32


def test_tokens_part_where_they_differ():
    assert difference([1, 2], [1, 2]) == {"equal": True, "of": 2, "first": None}
    assert difference([1, 9], [1, 2]) == {"equal": False, "of": 2, "first": 1, "got": [9], "expected": [2]}
    assert difference([1], [1, 2])["first"] == 1
    assert difference([], [])["equal"] and difference([3], [])["first"] == 0


def test_errors_are_relative_to_float32():
    found = errors({"whisper2max": np.array([1.1, 0.0]), "float32": np.array([1.0, 0.0]), "bfloat16": np.zeros(2)})
    assert found == {"whisper2max": pytest.approx(0.1), "bfloat16": 1.0}


# ---------------------------------------------------------------------------------------- parts


class Clock:
    """Goes on when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def take(self, seconds: float):
        def run() -> float:
            self.now += seconds
            return seconds

        return run


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path, rehearsal=False, artifact="base")


def statuses(record: Record) -> dict[str, str]:
    return {name: part["status"] for name, part in Record.read(record.folder).parts.items()}


def test_what_no_longer_fits_is_left_out_and_what_fits_is_not(record):
    clock, said = Clock(), []
    parts = [Part("long", 60, clock.take(80)), Part("longer", 50, clock.take(1)), Part("short", 10, clock.take(1))]
    assert run_parts(parts, record, Budget(100, clock), said.append)
    assert statuses(record) == {"long": "done", "longer": "skipped", "short": "done"}
    assert record.parts["longer"]["reason"] == "it may need 50 s, and 20 s are left"
    assert "longer: skipped, it may need 50 s, and 20 s are left" in said


def test_a_part_that_fails_is_written_down_and_the_next_goes_on(record):
    def fails():
        raise RuntimeError("no kernel image")

    def not_here():
        raise NotHere("torch is not installed")

    parts = [Part("a", 1, fails), Part("b", 1, lambda: {"x": 1}), Part("c", 1, not_here), Part("d", 1, object)]
    assert run_parts(parts, record, Budget(100), lambda line: None)
    assert statuses(record) == {"a": "failed", "b": "done", "c": "skipped", "d": "failed"}
    written = Record.read(record.folder).parts
    assert "Traceback" in written["a"]["reason"] and "in fails" in written["a"]["reason"]
    assert written["c"]["reason"] == "torch is not installed"
    assert "not JSON serializable" in written["d"]["reason"]
    assert record.failed == ["a", "d"]


def test_results_are_written_after_every_part(record):
    seen = []

    def look():
        written = Record.read(record.folder)
        seen.append((list(written.parts), written.running["name"]))

    assert run_parts([Part("a", 1, look), Part("b", 1, look)], record, Budget(100), lambda line: None)
    assert seen == [([], "a"), (["a"], "b")]
    assert Record.read(record.folder).running is None


def test_a_device_that_does_not_answer_ends_the_process_and_the_next_one_goes_on(record):
    ran = []

    def fails():
        ran.append("a")
        raise RuntimeError("an illegal memory access was encountered")

    parts = [Part("a", 1, fails), Part("b", 1, lambda: ran.append("b"))]
    assert not run_parts(parts, record, Budget(100), lambda line: None, healthy=lambda: False)
    assert statuses(record) == {"a": "failed"}
    assert run_parts(parts, Record.read(record.folder), Budget(100), lambda line: None)
    assert statuses(record) == {"a": "failed", "b": "done"} and ran == ["a", "b"]


# ---------------------------------------------------------------------------------------- processes


def worker(*lines: str) -> list[str]:
    """A process that has a record, and says what part it is in."""
    begin = [
        f"import os, signal, sys, time; sys.path.insert(0, {str(BENCHMARKS)!r})",
        "from pathlib import Path; from gpu.parts import Part, Record",
        "record = Record.read(Path(sys.argv[1]))",
        "def begin(name, limit=60): record.begin(Part(name, (limit - 60) / 3, None))",
    ]
    return [sys.executable, "-c", "\n".join([*begin, *lines])]


def test_a_part_that_ends_its_process_is_noted_and_the_next_process_goes_on(record):
    record.write()
    (record.folder / "crash.txt").write_text("Fatal Python error: Aborted")
    command = worker(
        "if 'a' in record.parts: begin('b'); record.end('b', 'done', result=1); sys.exit(0)",
        "begin('a'); os.kill(os.getpid(), signal.SIGABRT)",
    )
    said = []
    supervise([*command, str(record.folder)], record.folder, Budget(60), said.append)
    assert statuses(record) == {"a": "failed", "b": "done"}
    reason = Record.read(record.folder).parts["a"]["reason"]
    assert reason == f"its process was ended by signal {signal.SIGABRT.value}\nFatal Python error: Aborted"
    assert said == [f"a: FAILED: its process was ended by signal {signal.SIGABRT.value}"]


def test_a_part_that_hangs_is_ended(record):
    record.write()
    command = worker("if 'a' in record.parts: sys.exit(0)", "begin('a', 0.3); time.sleep(60)")
    supervise([*command, str(record.folder)], record.folder, Budget(60), lambda line: None)
    assert Record.read(record.folder).parts["a"]["reason"] == "it did not end within 0 s"


def test_a_process_that_asks_for_another_gets_one(record):
    record.write()
    command = worker(
        "if 'a' in record.parts: sys.exit(0)", f"begin('a'); record.end('a', 'failed', reason='x'); sys.exit({RESTART})"
    )
    said = []
    supervise([*command, str(record.folder)], record.folder, Budget(60), said.append)
    assert statuses(record) == {"a": "failed"} and not said


def test_a_process_that_never_begins_is_not_started_again(record):
    record.write()
    said = []
    supervise([*worker("sys.exit(5)"), str(record.folder)], record.folder, Budget(60), said.append)
    assert said == ["the process ended with status 5 between two parts"]


# ---------------------------------------------------------------------------------------- contenders


def test_contenders_run_in_turn_and_are_warm():
    ran, closed = [], []

    def maker(name):
        return lambda: Contender(
            lambda: ran.append(name), before=lambda: ran.append("before"), close=lambda: closed.append(name)
        )

    found = race({"A": maker("A"), "B": maker("B")}, runs=2, seconds=1, warm_up=1)
    assert [each for each in ran if each != "before"] == ["A", "B", "A", "B", "A", "B"]
    assert ran.count("before") == 6 and closed == ["A", "B"]
    assert [len(found["values"][name]) for name in "AB"] == [2, 2] and not found["failed"]


def test_waiting_is_in_the_time_and_what_comes_before_is_not():
    clock = Clock()
    maker = {"A": lambda: Contender(clock.take(1), clock.take(2), before=clock.take(4))}
    assert race(maker, runs=3, seconds=1, clock=clock)["medians"] == {"A": 3.0}


def test_a_contender_that_fails_is_left_out_and_the_others_go_on():
    calls = iter([None, RuntimeError("capture failed"), None])

    def sometimes():
        if error := next(calls):
            raise error

    def cannot():
        raise ValueError("no such layer")

    found = race(
        {"A": lambda: Contender(lambda: None), "B": lambda: Contender(sometimes), "C": cannot}, 2, seconds=1, warm_up=1
    )
    assert list(found["medians"]) == ["A"] and list(found["failed"]) == ["C", "B"]
    assert "no such layer" in found["failed"]["C"] and "capture failed" in found["failed"]["B"]


def test_who_had_its_share_of_time_sits_out():
    clock = Clock()
    makers = {"slow": lambda: Contender(clock.take(3)), "fast": lambda: Contender(clock.take(0.01))}
    found = race(makers, runs=20, seconds=10, least=4, clock=clock)
    assert {name: len(values) for name, values in found["values"].items()} == {"slow": 4, "fast": 20}
    assert found["lowest"] == {"slow": pytest.approx(3), "fast": pytest.approx(0.01)}


# ---------------------------------------------------------------------------------------- the page


def done(result: dict) -> dict:
    return {"status": "done", "result": result}


def figure(size: int, medians: dict, **more) -> dict:
    values = {name: [value] * 20 for name, value in medians.items()}
    result = {"figure": "encoder", "size": size, "unit": "ms", "medians": medians, "values": values, "failed": {}}
    return done({**result, **more})


PARTS = {
    "machine": done({"gpu": {"name": "H100"}, "processor": "Xeon", "cpus": 16, "python": "3.12"}),
    "encoder at 1": figure(1, {"whisper2max, replayed": 0.002, "whisper2max": 0.003, "torch bfloat16": 0.001}),
    "encoder at 8": figure(8, {"whisper2max": 0.008}, failed={"torch bfloat16": "Traceback\nRuntimeError: no memory"}),
    "values at 1": done({"encoder": {"whisper2max": 0.01, "bfloat16": 0.02}, "choices": {"right": 3, "of": 4}}),
    "tokens": done(
        {
            "a.flac": {
                "tokens": [0, 0],
                "text": "!!",
                "expected": difference([0, 0], [0, 7]),
                "expected text": " Good morning",
                "again": difference([0], [0]),
                "together": difference([0], [0]),
            }
        }
    ),
    "step at 1": {"status": "failed", "reason": "Traceback (most recent call last):\n..\nValueError: no kernel"},
    "step at 8": {"status": "skipped", "reason": "it may need 7 s, and 1 s are left"},
}
ABOUT = {"artifact": "base", "commit": "abc", "started": "2026-11-27 12:00"}


def test_the_table_has_sizes_side_by_side_and_ratios():
    page = reports.report({**ABOUT, "rehearsal": False}, PARTS)
    assert "| ms, medians | at 1, of 20 | at 8, of 20 |" in page
    assert "| whisper2max, replayed | 2.000 (1.00) | – |" in page
    assert "| whisper2max | 3.000 (1.50) | 8.000 (1.00) |" in page
    assert "| torch bfloat16 | 1.000 (0.50) | **failed** |" in page
    assert "rehearsal" not in page and "- GPU: name H100" in page


def test_a_rehearsal_says_that_it_means_nothing():
    assert reports.MEANINGLESS in reports.report({**ABOUT, "rehearsal": True}, {})


def test_seconds_have_times_real_time():
    spoken = figure(1, {"whisper2max": 0.1}, figure="one window", unit="s", audio=30.0)
    page = reports.report(ABOUT, {"one window": spoken})
    assert "| s, medians | at 1, of 20 | times real time |" in page
    assert "| whisper2max | 0.100 (1.00) | 300 |" in page


def test_differences_errors_and_failures_are_shown():
    page = reports.report(ABOUT, PARTS)
    assert "- **a.flac**, 2 tokens: !!" in page
    assert "against float32 on a CPU: **differs** from the 2. of 2 tokens on" in page
    assert "expected: Good morning" in page and "once more: all 1 equal; together with others: all 1 equal" in page
    assert "| encoder at 1 | 1.0e-02 | 2.0e-02 |" in page and "| choices at 1: 3 of 4 right |  |  |" in page
    assert "## Failed\n\n- step at 1: ValueError: no kernel" in page
    assert "- encoder at 8, torch bfloat16: RuntimeError: no memory" in page
    assert "## Left out\n\n- step at 8: it may need 7 s, and 1 s are left" in page


def test_every_figure_has_a_title():
    from gpu.measured import FIGURES

    assert set(FIGURES) <= set(reports.TITLES)
