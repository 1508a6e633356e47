import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings

import pytest

from whisper2max.build import cache as cache_module
from whisper2max.build.cache import GraphCache, cache_dir
from whisper2max.core.errors import UsageError

KEY, OTHER_KEY = "0123456789abcdef" * 4, "f" * 64


@pytest.fixture
def cache(tmp_path):
    return GraphCache(tmp_path / "cache")


@pytest.fixture
def mef(tmp_path):
    path = tmp_path / "compiled.mef"
    path.write_bytes(b"native code " * 100)
    return path


class TestDirectory:
    @pytest.fixture(autouse=True)
    def clean_environment(self, tmp_path, monkeypatch):
        for name in ("WHISPER2MAX_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def test_is_found_in_the_documented_order(self, tmp_path, monkeypatch):
        assert cache_dir() == tmp_path / "home/.cache/whisper2max"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_dir() == tmp_path / "xdg/whisper2max"
        monkeypatch.setenv("WHISPER2MAX_CACHE", str(tmp_path / "chosen"))
        assert cache_dir() == tmp_path / "chosen"

    def test_relative_paths(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert cache_dir() == tmp_path / "home/.cache/whisper2max"
        monkeypatch.setenv("WHISPER2MAX_CACHE", "chosen")
        assert cache_dir() == tmp_path / "chosen"

    def test_is_private_whatever_the_umask(self, tmp_path):
        before = os.umask(0)
        try:
            root = GraphCache(tmp_path / "deep" / "cache").root
        finally:
            os.umask(before)
        for path in (root, root / "graphs", root / "locks"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700

    @pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
    def test_is_refused_where_others_can_write(self, tmp_path, mode):
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache").chmod(mode)
        with pytest.raises(UsageError, match=r"can be written by other users.*chmod go-w"):
            GraphCache(tmp_path / "cache")

    def test_is_refused_where_it_belongs_to_another_user(self, tmp_path, monkeypatch):
        (tmp_path / "cache").mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(UsageError, match="belongs to another user"):
            GraphCache(tmp_path / "cache")

    def test_is_refused_under_a_file(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("WHISPER2MAX_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(UsageError, match="cannot be kept in .*Set WHISPER2MAX_CACHE"):
            cache_dir()


class TestEntries:
    def test_what_was_put_is_got(self, cache, mef):
        assert cache.get(KEY, "encoder") is None
        kept = cache.put(KEY, "encoder", mef, {"versions": {"max": "26.7.0"}})
        mef.unlink()
        assert kept.path.name == "encoder.mef"
        assert cache.get(KEY, "encoder").path == kept.path
        assert kept.read(1200) == kept.path.read_bytes() == b"native code " * 100
        assert cache.get(KEY, "step") is None
        assert cache.get(OTHER_KEY, "encoder") is None

    def test_an_intact_entry_stays(self, cache, mef, tmp_path):
        first = cache.put(KEY, "encoder", mef, {})
        (tmp_path / "second.mef").write_bytes(b"another compilation of the same graph")
        assert cache.put(KEY, "encoder", tmp_path / "second.mef", {}).sha256 == first.sha256
        assert first.path.read_bytes() == mef.read_bytes()

    def test_entries_are_described(self, cache, mef):
        cache.put(KEY, "encoder", mef, {"versions": {"max": "26.7.0", "mojo": "1.2.0"}})
        cache.put(OTHER_KEY, "step", mef, {})
        encoder, step = sorted(cache.entries(), key=lambda entry: entry.name)
        assert (encoder.key, encoder.name, encoder.bytes) == (KEY, "encoder", 1200)
        assert encoder.info == {"versions": {"max": "26.7.0", "mojo": "1.2.0"}}
        assert encoder.created.endswith("+00:00")
        assert (step.key, step.name, step.info) == (OTHER_KEY, "step", {})

    @pytest.mark.parametrize(
        "damage",
        [
            lambda entry: (entry / "encoder.mef").write_bytes(b"native code " * 99 + b"Native code "),
            lambda entry: (entry / "encoder.mef").write_bytes(b""),
            lambda entry: (entry / "encoder.mef").unlink(),
            lambda entry: (entry / "entry.json").unlink(),
            lambda entry: (entry / "entry.json").write_text(""),
            lambda entry: (entry / "entry.json").write_text("{}"),
            lambda entry: (entry / "entry.json").write_text('{"info":' * 20_000),
            lambda entry: os.truncate(entry / "entry.json", 1 << 40),
            lambda entry: ((entry / "entry.json").unlink(), os.mkfifo(entry / "entry.json")),
            lambda entry: ((entry / "encoder.mef").unlink(), (entry / "encoder.mef").symlink_to("/dev/zero")),
            lambda entry: (entry / "entry.json").write_text(
                (entry / "entry.json").read_text().replace('"info": {}', '"info": []')
            ),
            lambda entry: (entry / "entry.json").write_text(
                (entry / "entry.json").read_text().replace(KEY, OTHER_KEY)
            ),
        ],
    )
    def test_a_damaged_entry_is_dropped_and_can_be_put_again(self, cache, mef, damage):
        damage(cache.put(KEY, "encoder", mef, {}).path.parent)
        with pytest.warns(
            UserWarning, match=r"cached graph encoder \(0123456789ab\) was damaged.*compiled again"
        ):
            assert cache.get(KEY, "encoder") is None
        assert list((cache.root / "graphs").iterdir()) == []
        assert cache.get(KEY, "encoder") is None
        assert cache.put(KEY, "encoder", mef, {}).path.read_bytes() == mef.read_bytes()

    @pytest.mark.parametrize("record", [b"[" * 100_000, b'{"name": "\x1b[2J"}', b"\xff", b"{}", b" " * 100_000])
    def test_an_odd_entry_is_not_listed(self, cache, mef, record):
        cache.put(KEY, "encoder", mef, {})
        odd, endless = cache.root / "graphs" / "odd", cache.root / "graphs" / "endless"
        odd.mkdir()
        (odd / "entry.json").write_bytes(record)
        endless.mkdir()
        (endless / "entry.json").symlink_to("/dev/zero")
        assert [entry.name for entry in cache.entries()] == ["encoder"]

    @pytest.mark.parametrize(
        "change",
        [{"name": "\x1b[2J"}, {"created": "now\n"}, {"bytes": True}, {"bytes": -1}, {"sha256": "0"}, {"info": 3}],
    )
    def test_a_record_of_another_form_is_not_listed(self, cache, mef, change):
        record = cache.put(KEY, "encoder", mef, {}).path.parent / "entry.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
        assert cache.entries() == []

    def test_putting_over_a_damaged_entry_repairs_it(self, cache, mef):
        cache.put(KEY, "encoder", mef, {}).path.write_bytes(b"damaged")
        with pytest.warns(UserWarning, match="was damaged"):
            kept = cache.put(KEY, "encoder", mef, {})
        assert kept.path.read_bytes() == mef.read_bytes()

    def test_clear_frees_everything(self, cache, mef):
        for key in (KEY, OTHER_KEY):
            with cache.lock(key):
                cache.put(key, "encoder", mef, {})
        abandoned = cache.root / "graphs" / f".step-{KEY}.partial-1-0123abcd"
        abandoned.mkdir()
        (abandoned / "step.mef").write_bytes(bytes(50))
        freed = cache.clear()
        assert freed > 2 * 1200 + 50
        assert cache.entries() == []
        assert list((cache.root / "graphs").iterdir()) == list((cache.root / "locks").iterdir()) == []
        assert cache.clear() == 0
        assert cache.put(KEY, "encoder", mef, {}).path.exists()

    @pytest.mark.parametrize("lock", [KEY, f"{KEY}-encoder"])
    def test_clear_spares_what_is_in_use(self, cache, mef, lock):
        cache.put(KEY, "encoder", mef, {})
        cache.put(OTHER_KEY, "encoder", mef, {})
        with cache.lock(lock):
            assert cache.clear() > 0
            assert [entry.key for entry in cache.entries()] == [KEY]
        cache.clear()
        assert cache.entries() == []

    @pytest.mark.parametrize(
        ("key", "name"), [("../x", "encoder"), ("abc", "encoder"), (KEY, "../x"), (KEY, "")]
    )
    def test_names_that_leave_the_cache_are_refused(self, cache, mef, key, name):
        with pytest.raises(ValueError, match="cache key|graph name"):
            cache.get(key, name)
        with pytest.raises(ValueError, match="cache key|graph name"):
            cache.put(key, name, mef, {})

    def test_a_cache_that_cannot_be_written_is_named(self, cache, mef, monkeypatch):
        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cache_module.HeldFile, "copy_to", full)
        with pytest.raises(UsageError, match=r"encoder cannot be kept in .*No space left.*WHISPER2MAX_CACHE"):
            cache.put(KEY, "encoder", mef, {})
        assert list((cache.root / "graphs").iterdir()) == []

    def test_a_killed_writer_leaves_no_entry_and_is_cleaned_up_after(self, cache, mef, monkeypatch):
        code = "import os, signal, sys; from whisper2max.build import cache; "
        code += "cache.sync_tree = lambda path: os.kill(os.getpid(), signal.SIGKILL); "
        code += "cache.GraphCache(sys.argv[1]).put(sys.argv[2], 'encoder', sys.argv[3], {})"
        command = [sys.executable, "-c", code, str(cache.root), KEY, str(mef)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert len(list((cache.root / "graphs").iterdir())) == 1
        assert cache.entries() == []
        assert cache.get(KEY, "encoder") is None
        kept = cache.put(KEY, "encoder", mef, {})
        assert list((cache.root / "graphs").iterdir()) == [kept.path.parent]


def put_and_get(root, mef, number):
    cache = GraphCache(root)
    for round_number in range(20):
        key = f"{round_number:064x}"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cache.put(key, "encoder", mef, {"writer": number})
            assert cache.get(key, "encoder")


def count_under_lock(root, counter, rounds):
    cache = GraphCache(root)
    for _ in range(rounds):
        with cache.lock(KEY):
            value = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(value + 1))
            if value % 5 == 0:
                GraphCache(root).clear()


class TestCompetition:
    def run_all(self, target, arguments):
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=target, args=each) for each in arguments]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * len(processes)

    def test_writers_of_the_same_entries_do_not_disturb_each_other(self, cache, mef):
        self.run_all(put_and_get, [(cache.root, mef, number) for number in range(4)])
        assert len(cache.entries()) == len(list((cache.root / "graphs").iterdir())) == 20

    def test_the_lock_excludes_even_while_the_cache_is_cleared(self, cache, tmp_path):
        counter = tmp_path / "counter"
        counter.write_text("0")
        self.run_all(count_under_lock, [(cache.root, counter, 20)] * 4)
        assert counter.read_text() == "80"

    def test_waiting_is_announced_once(self, cache):
        announced, order = [], []

        def second():
            with cache.lock(KEY, on_wait=lambda: announced.append("waiting")):
                order.append("second")

        with cache.lock(KEY, on_wait=lambda: announced.append("never")):
            thread = threading.Thread(target=second)
            thread.start()
            while not announced:
                time.sleep(0.001)
            order.append("first")
        thread.join()
        assert (announced, order) == (["waiting"], ["first", "second"])

    def test_keys_and_graphs_are_locked_apart(self, cache):
        with cache.lock(KEY), cache.lock(OTHER_KEY), cache.lock(f"{KEY}-encoder"), cache.lock(f"{KEY}-step"):
            pass
        with pytest.raises(ValueError, match="neither a cache key"), cache.lock("../x"):
            pass

    def test_a_killed_holder_holds_no_more(self, cache):
        code = "import os, signal, sys; from whisper2max.build.cache import GraphCache\n"
        code += "with GraphCache(sys.argv[1]).lock(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)"
        subprocess.run([sys.executable, "-c", code, str(cache.root), KEY], check=False)
        waited = []
        with cache.lock(KEY, on_wait=lambda: waited.append(True)):
            assert not waited

    def test_an_entry_cleared_while_it_is_read_is_a_plain_miss(self, cache, mef, monkeypatch):
        kept = cache.put(KEY, "encoder", mef, {})

        def cleared(directory):
            shutil.rmtree(kept.path.parent)
            return read(directory)

        read = cache_module._read_record
        monkeypatch.setattr(cache_module, "_read_record", cleared)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert cache.get(KEY, "encoder") is None


def test_the_record_is_readable(cache, mef):
    record = json.loads(
        (cache.put(KEY, "encoder", mef, {"target": "native"}).path.parent / "entry.json").read_text()
    )
    assert list(record) == ["key", "name", "sha256", "bytes", "created", "info"]
