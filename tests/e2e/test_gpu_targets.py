"""Targets that are GPUs, on a machine without one: what is refused, and what is said of graphs that never ran."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from artifact_samples import contents, write_artifact

import whisper2max
from whisper2max.artifact.artifact import UnverifiedArtifactWarning, open_artifact
from whisper2max.build.rebuild import rebuild
from whisper2max.build.target import GPUS, resolve
from whisper2max.core.errors import ArtifactError, UsageError
from whisper2max.parity import marking
from whisper2max.parity.comparison import compare_with

COMMAND = Path(sys.executable).with_name("whisper2max")


def silent(message):
    pass


@pytest.fixture
def for_a_gpu(tmp_path):
    """An artifact that says that it was compiled for an H100."""
    return write_artifact(tmp_path / "artifact", backend="max", target=described("sm_90"), executed=False)


@pytest.fixture
def for_two_gpus(tmp_path):
    """An artifact that says that it was compiled for an H100, and for an A100 too."""
    also = [{**described("sm_80"), "executed": False}]
    target = described("sm_90")
    return write_artifact(tmp_path / "two", backend="max", target=target, executed=False, also=also)


def described(name):
    return {**resolve(name).to_dict(), "cpu_features": []}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "sm_12"], "error: target 'sm_12' is not offered; choose one of native, x86-64-v2"),
        (["--target", "gfx942", "--dtype", "bfloat16"], "error: target gfx942 is not offered: MAX 26.7 does"),
        (["--target", "sm_90", "--dtype", "int8"], "error: dtype int8 is not offered for the GPU sm_90: there are"),
        (["--target", "sm_80"], "error: dtype float32 is not offered for the GPU sm_80: products of float32 are"),
        (["--target", "sm_90,sm_90", "--dtype", "bfloat16"], "error: target 'sm_90,sm_90' names one twice."),
        (["--target", "sm_90,native"], "error: target 'sm_90,native': several can be given if they are GPUs"),
        (["--target", "max-cpu", "--dtype", "int8"], "error: dtype 'int8' is not offered for target max-cpu; choose"),
    ],
)
def test_what_no_gpu_runs_is_refused_before_anything_is_written(tmp_path, arguments, message):
    command = [COMMAND, "convert", "--size", "base", "--output", tmp_path / "made", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and result.stderr.startswith(message), result.stderr
    assert result.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_is_judged_on_this_cpu(name):
    assert resolve(name).judged.name == "max-cpu"


def test_opening_it_says_that_its_graphs_never_ran(for_a_gpu):
    with pytest.warns(UnverifiedArtifactWarning, match="compiled for sm_90 and not executed: its network was compared"):
        artifact = open_artifact(for_a_gpu)
    assert artifact.verified and not artifact.executed and artifact.target == "sm_90"


def test_loading_it_without_a_driver_is_one_clear_error(for_a_gpu, monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("whisper2max.runtime.device.ctypes.CDLL", missing)
    with pytest.warns(UnverifiedArtifactWarning), pytest.raises(UsageError, match="for sm_90, and there is no NVIDIA"):
        whisper2max.load(for_a_gpu)
    with pytest.warns(UnverifiedArtifactWarning), pytest.raises(UsageError, match="compiled for the GPU sm_90. For"):
        whisper2max.load(for_a_gpu, device="cpu")


def test_inspect_says_so_too(for_a_gpu, for_two_gpus):
    result = subprocess.run([COMMAND, "inspect", for_a_gpu], capture_output=True, text=True, check=True)
    assert "executed: no, compiled for sm_90, not executed" in result.stdout and "sm_80" not in result.stdout
    result = subprocess.run([COMMAND, "inspect", for_two_gpus], capture_output=True, text=True, check=True)
    assert "also: compiled for sm_80, not executed" in result.stdout


def test_graphs_of_several_gpus_are_told_apart(for_two_gpus):
    with pytest.warns(UnverifiedArtifactWarning, match="compiled for sm_90 and sm_80 and not executed"):
        artifact = open_artifact(for_two_gpus)
    for name, expected in (("sm_90", "step.mef of sample"), ("sm_80", "sm_80/step.mef of sample")):
        files = artifact.files_for(name)
        assert files["step.mef"].read(100).decode().strip() == expected
        assert files["weights.safetensors"] is artifact.files["weights.safetensors"]
        assert set(files) == set(artifact.files_for("sm_90")) and not any("/step" in file for file in files)


@pytest.mark.parametrize("name", ["sm_90", "sm_80"])
def test_what_ran_is_marked_by_its_target(for_two_gpus, name):
    with pytest.warns(UnverifiedArtifactWarning):
        artifact = open_artifact(for_two_gpus)
    report = SimpleNamespace(passed=True, not_executed="", summary=lambda: {"passed": True}, to_dict=dict)
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marking, "write_report", lambda directory, report, inputs: None)
        marking.mark_proven(artifact, name, report, [], said.append)
    with pytest.warns(UnverifiedArtifactWarning, match=f"for {'sm_80' if name == 'sm_90' else 'sm_90'} and not"):
        marked = open_artifact(for_two_gpus)
    assert [each["name"] for each in marked.targets if each["executed"]] == [name] and not marked.executed
    assert marked.executed_on(name) and said == [f"{for_two_gpus} is marked executed"]


@pytest.mark.parametrize("target", ["sm_90", "max-cpu"])
def test_packed_weights_are_not_compiled_for_what_takes_plain_ones(tmp_path, target):
    path = write_artifact(tmp_path / "artifact")
    before = contents(path)
    with pytest.raises(UsageError, match=f"has weights for other targets than {target}: choose one of native, x86"):
        rebuild(path, silent, target)
    assert contents(path) == before


def test_a_target_that_says_half_of_a_gpu_is_no_manifest(tmp_path):
    with pytest.raises(ArtifactError, match="target.gpu has no api and architecture"):
        write_artifact(tmp_path / "artifact", target={"name": "sm_90", "cpu_features": [], "gpu": {"api": "cuda"}})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "was compiled for sm_90, and there is no NVIDIA driver here"),
        (["--device", "cpu"], "was compiled for the GPU sm_90. For this CPU convert"),
        (["--device", "gpu"], "device is 'gpu'; choose auto, cpu, cuda or cuda:NUMBER."),
    ],
)
def test_transcribe_says_why_it_cannot(for_a_gpu, repository, arguments, message):
    command = [COMMAND, "transcribe", for_a_gpu, repository / "samples" / "speech.flac", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    *_, last = result.stderr.splitlines()
    assert result.returncode == 2 and last.startswith("error: ") and message in last, result.stderr


@pytest.mark.parametrize("how", [[], ["--replay"]])
def test_it_is_not_judged_on_a_gpu_that_is_not_here(for_a_gpu, how):
    before = contents(for_a_gpu)
    command = [COMMAND, "verify", for_a_gpu, *how, "--device", "cuda"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "for sm_90, and there is no NVIDIA driver here" in result.stderr, result.stderr
    assert contents(for_a_gpu) == before


def test_what_is_compiled_for_the_cpu_is_not_judged_on_a_gpu(tmp_path):
    artifact = write_artifact(tmp_path / "artifact")
    with pytest.raises(UsageError, match="was compiled for the CPU"):
        whisper2max.verify(artifact, checkpoint=tmp_path, device="cuda")


def test_it_is_compared_with_no_other_artifact(for_a_gpu, tmp_path):
    with pytest.raises(UsageError, match="was compiled for sm_90; artifacts for CPUs are compared"):
        compare_with(for_a_gpu, write_artifact(tmp_path / "other"), [], silent)
