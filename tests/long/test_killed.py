"""SIGKILL at seeded points of convert and compile: always the complete old artifact or the complete new one."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_models import VARIANTS, transformers_module

from whisper2max.artifact.artifact import open_artifact

COMMAND = str(Path(sys.executable).with_name("whisper2max"))
# Some runs are killed and some finish, also where the machine was half as busy, or twice, when one was timed.
PAST_THE_END = 1.6
POINTS = [10, pytest.param(20, marks=pytest.mark.exhaustive)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two Hugging Face directories of tiny dimensions with other weights."""
    directories = []
    for seed in (1, 2):
        directory = tmp_path_factory.mktemp("checkpoint") / f"seed{seed}"
        transformers_module(VARIANTS["multilingual_80_mels"], seed=seed).save_pretrained(directory)
        directories.append(directory)
    return directories


def convert_command(checkpoint, output):
    return [COMMAND, "convert", "--checkpoint", checkpoint, "--output", output, "--force"]


def weights_of(artifact) -> torch.Tensor:
    weights = safetensors.torch.load(artifact.file("weights.safetensors").read(1 << 30))
    return weights["decoder.positional_embedding"]


def kill_at_points(points, command_of, seconds, check):
    """Start the command again and again, kill it at seeded moments, and check what is left."""
    generator = random.Random(20)
    killed = 0
    for point in range(points):
        moment = seconds * (point + generator.random()) / points
        process = subprocess.Popen(command_of(point), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        check(point)
    return killed


@pytest.mark.parametrize("points", POINTS)
def test_convert(checkpoints, tmp_path, points):
    output = tmp_path / "artifact"
    subprocess.run(convert_command(checkpoints[0], output), check=True, capture_output=True)
    started = time.monotonic()  # the graphs are kept now
    subprocess.run(convert_command(checkpoints[1], output), check=True, capture_output=True)
    seconds = time.monotonic() - started
    name = "model.decoder.embed_positions.weight"
    expected = [safetensors.torch.load_file(path / "model.safetensors")[name] for path in checkpoints]
    assert not torch.equal(*expected)
    seen = []

    def check(point):
        weights = weights_of(open_artifact(output))
        seen.append([torch.equal(weights, each) for each in expected].index(True))

    def command_of(point):
        return convert_command(checkpoints[point % 2], output)

    killed = kill_at_points(points, command_of, PAST_THE_END * seconds, check)
    print(f"convert: {killed} of {points} killed within {seconds:.1f} s, artifacts seen: {seen}")
    assert killed >= points // 3 and set(seen) == {0, 1}
    subprocess.run(convert_command(checkpoints[0], output), check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"], "leftovers of killed runs should be removed"


@pytest.mark.parametrize("points", POINTS)
def test_compile(checkpoints, tmp_path, points):
    output = tmp_path / "artifact"
    subprocess.run(convert_command(checkpoints[0], output), check=True, capture_output=True)
    command = [COMMAND, "compile", output]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.monotonic() - started

    verified = []

    def check(point):
        artifact = open_artifact(output, warn_unverified=False)
        verified.append(artifact.verified)
        if not artifact.verified:
            subprocess.run(convert_command(checkpoints[0], output), check=True, capture_output=True)

    killed = kill_at_points(points, lambda point: command, PAST_THE_END * seconds, check)
    print(f"compile: {killed} of {points} killed within {seconds:.1f} s, {verified.count(False)} rebuilt")
    assert killed >= points // 3 and set(verified) == {True, False}
    subprocess.run(command, check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
