"""Replay of a kept reference, and one artifact against another; both without torch."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from small_models import VARIANTS, transformers_module

import whisper2max
from whisper2max.artifact.artifact import open_artifact
from whisper2max.artifact.manifest import write_manifest
from whisper2max.core.errors import UsageError
from whisper2max.parity import comparison
from whisper2max.parity.comparison import compare_with, replay_artifact
from whisper2max.parity.inputs import load_inputs
from whisper2max.parity.kept import FILE

COMMAND = str(Path(sys.executable).with_name("whisper2max"))
WITHOUT_TORCH = (
    "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'jinja2', 'whisper')))\n"
    "from whisper2max.cli.main import main; main()"
)


def say(message):
    """Nothing."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory, small_module):
    output = tmp_path_factory.mktemp("kept") / "artifact"
    return whisper2max.convert(module=small_module, output=output, keep_reference=True)


@pytest.fixture
def copy(kept, tmp_path):
    """A copy to damage, and a function that changes one of its weights and reseals it."""
    shutil.copytree(kept.path, tmp_path / "copy")

    def change(name, index, by):
        path = tmp_path / "copy" / "weights.safetensors"
        weights = safetensors.numpy.load_file(path)
        weights[name] = weights[name].copy()
        weights[name][index] += np.float32(by)
        safetensors.numpy.save_file(weights, path)
        write_manifest(tmp_path / "copy", kept.manifest)
        return open_artifact(tmp_path / "copy")

    return change


def run(*arguments):
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "140"})


def test_a_kept_reference_replays_without_torch(kept):
    result = run("verify", kept.path, "--replay")
    assert result.returncode == 0, result.stderr
    assert "passed" in result.stderr and "kept with the artifact" in " ".join(result.stderr.split())


def test_replay_judges_the_shipped_graphs(kept):
    report, inputs = replay_artifact(kept.path, say)
    assert report.passed and report.tokens
    extended = [f"extend of 3 rows on shared prefixes, row {n} at {p}" for n, p in enumerate((224, 4, 0))]
    steps = ["step of 1 row at 4", "step of 1 row at 224", "step of 1 row at 447"]
    reordered = [f"step of 3 rows, reordered, row {n} at {p}" for n, p in enumerate((447, 224, 447))]
    decoded = ["extend of 1 row at 0", *extended, *steps, "step of 1 row, token by token at 3", *reordered]
    assert [(row.path, row.place.words) for row in report.rows] == [
        ("log_mel", "features"),
        ("encoder.ln_post", "encoder"),
        *(("decoder.logits", words) for words in decoded),
    ]
    assert {row.build for row in report.rows} == {"shipped"}
    assert [(name, mel.shape) for name, mel in inputs] == [("speech.flac", (80, 3000))]


@pytest.mark.parametrize("name", ["encoder.blocks.1.attn.value.bias", "decoder.blocks.0.cross_attn.out.bias"])
def test_replay_names_the_first_value_that_moved(copy, name):
    report, _ = replay_artifact(copy(name, 3, 0.5).path, say)
    assert not report.passed
    path = name.removesuffix(".bias").replace(".out", ".residual")
    assert report.first_divergent.path == path and report.first_divergent.build == "tapped"
    assert not any(each.different for each in report.found.same_bits) and report.found.same_bits


def test_replay_finds_an_error_in_frames_that_were_not_kept(copy):
    report, _ = replay_artifact(copy("encoder.positional_embedding", (slice(100, 900), 5), 2.0).path, say)
    assert report.first_divergent.path == "encoder.positional_embedding"


def test_nothing_to_replay_is_said(small_artifact):
    result = run("verify", small_artifact.path, "--replay")
    assert result.returncode == 2
    assert "keeps no reference to replay: convert it again with --keep-reference" in result.stderr


def test_what_is_kept_is_small_and_sealed(kept):
    assert FILE in kept.manifest["files"]
    # 16 tokens' logits of five executions are 17 MB of it
    assert 1e6 < kept.manifest["files"][FILE]["bytes"] < 25e6


def test_an_artifact_equals_itself(kept, small_artifact):
    report = compare_with(kept.path, small_artifact.path, load_inputs([]), say)
    assert report.passed and report.weights is None and report.witness is None
    assert max(row.max_abs for row in report.rows) == 0
    assert {row.build for row in report.rows} == {"tapped", "shipped"} and len(report.rows) > 150


def test_another_build_is_compared_value_by_value(copy, kept, tmp_path):
    changed = copy("decoder.blocks.1.attn.query.bias", 3, 0.5)
    result = run("verify", changed.path, "--against", kept.path)
    assert result.returncode == 1
    assert "decoder.blocks.1.attn.query is the first that diverges from the artifact" in result.stderr
    command = ["verify", str(changed.path), "--against", str(kept.path), "--report", str(tmp_path / "report")]
    assert subprocess.run([COMMAND, *command], check=False).returncode == 1
    report = json.loads((tmp_path / "report" / "parity.json").read_text())
    assert report["first_divergent"]["path"] == "decoder.blocks.1.attn.query" and report["witness"] is None


def test_artifacts_of_other_dimensions_are_refused(kept, monkeypatch):
    other = replace(kept, manifest={**kept.manifest, "dims": VARIANTS["english_80_mels"].to_dict()})
    opened = {"ours": kept, "theirs": other}
    monkeypatch.setattr(comparison, "open_artifact", lambda path, warn_unverified: opened[path])
    with pytest.raises(UsageError, match="not the same network"):
        compare_with("ours", "theirs", load_inputs([]), say)


def test_options_that_exclude_each_other(kept):
    for extra in (["--against", kept.path], ["--checkpoint", "x"], ["--isolated"], ["--audio", __file__]):
        result = run("verify", kept.path, "--replay", *extra)
        assert result.returncode == 2 and "do not go together" in result.stderr


def test_other_random_weights_are_another_network(kept, tmp_path):
    other = transformers_module(VARIANTS["multilingual_80_mels"], seed=4)
    artifact = whisper2max.convert(module=other, output=tmp_path / "other")
    report = compare_with(artifact.path, kept.path, load_inputs([]), say)
    assert report.first_divergent.path == "encoder.conv1.gelu"
