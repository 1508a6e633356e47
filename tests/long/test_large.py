"""The full dimensions of large-v3 with random weights convert and pass."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whisper2max.artifact.artifact import open_artifact

pytestmark = pytest.mark.exhaustive

COMMAND = str(Path(sys.executable).with_name("whisper2max"))


def test_large_v3_at_full_dimensions(tmp_path):
    output = tmp_path / "large"
    command = [COMMAND, "convert", "--size", "large-v3", "--random-init", "1", "--output", str(output)]
    started = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    assert os.waitstatus_to_exitcode(status) == 0
    artifact = open_artifact(output)
    peak = usage.ru_maxrss / 2**20
    print(f"large-v3, random: {seconds:.0f} s, peak {peak:.1f} GiB, parity {artifact.manifest['parity']}")
    assert artifact.dims.n_audio_layer == artifact.dims.n_text_layer == 32
    assert artifact.verified and artifact.manifest["parity"]["tokens"]["compared"] > 100
