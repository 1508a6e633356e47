"""Layer-by-layer proof of the real models on real speech: verdicts, no false alarms, and how long they take."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import whisper2max
from whisper2max.parity.comparison import replay_artifact

COMMAND = str(Path(sys.executable).with_name("whisper2max"))
# Of different character: read, spoken freely, a few words at low quality; Mandarin; music.
CLIPS = {
    "base": ["en_libri_61-70968-0000.flac", "zh_aishell_BAC009S0724W0121.wav", "xx_music_vibe_ace.ogg"],
    "tiny.en": ["en_jfk.mp3", "en_spontaneous_mfa_cold_32bitfloat.wav", "en_123_44k_stereo_8bit.wav"],
}


@pytest.mark.parametrize("size", CLIPS)
def test_passes_on_three_clips(size, base_artifact, tiny_en_artifact, shared_audio):
    artifact = {"base": base_artifact, "tiny.en": tiny_en_artifact}[size]
    report = whisper2max.verify(artifact.path, audio=[shared_audio / name for name in CLIPS[size]])
    for kind, row in report.worst_by_kind().items():
        torch = "" if row.torch_rel_rmse is None else f", torch {row.torch_rel_rmse:.1e}"
        print(f"{size} {kind}: {row.of_limit:.0%} of limit, max-abs {row.max_abs:.1e}, RMSE {row.rel_rmse:.1e}{torch}")
    assert report.passed, report.explanation()
    assert len(report.inputs) == 3 and report.tokens


@pytest.mark.parametrize("runs", [4, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_no_false_alarm(tiny_en_artifact, shared_audio, clips, runs):
    """Runs of a fresh process over different clips, on one thread and on all."""
    english = [clip.name for clip in clips if clip.language == "en"]
    for run in range(runs):
        name = english[run % len(english)]
        command = [COMMAND, "verify", tiny_en_artifact.path, "--audio", shared_audio / name]
        threads = ["taskset", "-c", "0"] if run % 2 else []
        result = subprocess.run([*threads, *map(str, command)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{name}, {threads}: {result.stderr}"


def test_verify_and_replay_are_quick_when_graphs_are_kept(tmp_path, base_artifact, patience):
    whisper2max.verify(base_artifact.path)
    started = time.monotonic()
    subprocess.run([COMMAND, "verify", str(base_artifact.path)], check=True, capture_output=True)
    verified = time.monotonic() - started
    kept = whisper2max.convert(size="base", output=tmp_path / "kept", keep_reference=True)
    report, _ = replay_artifact(kept.path, print)
    assert report.passed
    times = []
    for _ in range(3):
        started = time.monotonic()
        subprocess.run([COMMAND, "verify", str(kept.path), "--replay"], check=True, capture_output=True)
        times.append(time.monotonic() - started)
    megabytes = kept.manifest["files"]["reference.safetensors"]["bytes"] / 1e6
    print(f"base: verify {verified:.1f} s, replay {sorted(times)[1]:.1f} s, kept reference {megabytes:.1f} MB")
    assert verified < 60 * patience
    assert sorted(times)[1] < 5 * patience
    assert megabytes < 40
