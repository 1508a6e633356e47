"""convert --size base as a user runs it: time, memory, and a fresh process that transcribes without torch."""

import os
import subprocess
import sys
import time
from pathlib import Path

from whisper2max.artifact.artifact import open_artifact
from whisper2max.build.cache import GraphCache

COMMAND = str(Path(sys.executable).with_name("whisper2max"))


def measured(command, **environment) -> tuple[float, float, str]:
    """(wall seconds, peak GiB of the largest process, stdout)."""
    started = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return time.monotonic() - started, usage.ru_maxrss / 2**20, output


def test_convert_with_empty_and_with_warm_caches(tmp_path, patience):
    cache = {"WHISPER2MAX_CACHE": str(tmp_path / "cache")}
    command = [COMMAND, "convert", "--size", "base", "--output", tmp_path / "base", "--force"]
    cold, cold_memory, _ = measured(command, **cache)
    warm, warm_memory, _ = measured(command, **cache)
    peak = max(cold_memory, warm_memory)
    print(f"convert base: {cold:.0f} s with empty caches, {warm:.1f} s with graphs kept; peak {peak:.2f} GiB")
    assert open_artifact(tmp_path / "base").verified
    # what was compiled to be timed serves the other tests
    timed, kept = GraphCache(tmp_path / "cache"), GraphCache()
    for entry in timed.entries():
        kept.put(entry.key, entry.name, timed.get(entry.key, entry.name).path, entry.info)
    assert cold <= 10 * 60
    assert warm <= 30 * patience
    assert peak < 3


def test_fresh_process_transcribes_without_torch(base_artifact, shared_audio, patience):
    clip = shared_audio / "en_jfk.mp3"
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'jinja2', 'whisper')))\n"
        "from whisper2max.cli.main import main; main()"
    )
    command = [sys.executable, "-c", program, "transcribe", base_artifact.path, clip]
    runs = [measured(command) for _ in range(5)]
    seconds = sorted(run[0] for run in runs)
    print(f"11 s clip, fresh process: median {seconds[2]:.2f} s of {[round(each, 2) for each in seconds]}")
    assert "ask what you can do for your country" in runs[0][2]
    assert seconds[2] <= 2.5 * patience
