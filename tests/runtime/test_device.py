"""Which device a model runs on: a machine that cannot run an artifact gets one sentence before anything is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from whisper2max.core.errors import UsageError
from whisper2max.runtime import device as device_module
from whisper2max.runtime.device import place_of

CPU = {"name": "native", "cpu_features": []}
H100 = {"name": "sm_90", "cpu_features": [], "gpu": {"api": "cuda", "architecture": "sm_90a"}}
A100 = {"name": "sm_80", "cpu_features": [], "gpu": {"api": "cuda", "architecture": "sm_80"}}
SOURCE = Path(__file__).parents[1] / "helpers" / "fake_driver.c"


def asked(device="auto", target=H100, weights=1 << 30):
    return place_of(device, [target], weights, "models/base").gpu


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The path of a driver that answers from the environment."""
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    try:
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    except FileNotFoundError:
        pytest.skip("a driver to pretend with is compiled, and there is no gcc")
    return library


@pytest.fixture
def machine(driver, monkeypatch):
    """machine(NAME=value): this machine has that driver, with these answers."""
    import ctypes

    real = ctypes.CDLL
    monkeypatch.setattr(device_module.ctypes, "CDLL", lambda name: real(str(driver) if "libcuda" in name else name))

    def set_(**answers):
        for name, value in answers.items():
            monkeypatch.setenv(f"FAKE_{name}", str(value))

    return set_


@pytest.fixture
def no_driver(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(device_module.ctypes, "CDLL", missing)


def test_what_was_compiled_for_the_cpu_runs_there_and_asks_no_driver(no_driver):
    assert asked("auto", CPU) is None and asked("cpu", CPU) is None


@pytest.mark.parametrize(("device", "number"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_of_the_architecture_is_taken(machine, device, number):
    machine(COUNT=2)
    assert asked(device) == number


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:one", "CUDA", "", "cuda:1000000"])
def test_what_is_no_device_is_refused_with_the_choices(device):
    with pytest.raises(UsageError, match="choose auto, cpu, cuda or cuda:NUMBER"):
        asked(device)


def test_artifacts_for_another_kind_of_device_are_refused_with_the_remedy():
    with pytest.raises(UsageError, match=r"compiled for the CPU \(native\)\. For a GPU convert .* --target sm_90"):
        asked("cuda", CPU)
    with pytest.raises(UsageError, match="compiled for the GPU sm_90. For this CPU convert"):
        asked("cpu", H100)


def test_a_machine_without_a_driver(no_driver):
    with pytest.raises(UsageError, match=r"no NVIDIA driver here \(libcuda.so.1 is not found\): install driver 580"):
        asked()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"INIT": 999}, "does not start: cuInit gives error 999"),
        ({"VERSION": 12040}, r"is one for CUDA 12\.4: install driver 580 or later, which has CUDA 13\.0"),
        ({"INIT": 100}, "there is no GPU cuda:0 here; the driver finds none"),
        ({"COUNT": 0}, "there is no GPU cuda:0 here; the driver finds none"),
        ({"CAPABILITY": 80}, "cuda:0 is an sm_80, which cannot run it: convert the checkpoint with --target sm_80"),
        ({"CAPABILITY": 100}, "cuda:0 is an sm_100, which cannot run it"),
        ({"GIB": 2}, r"needs 3\.0 GiB of a GPU; cuda:0 has 2\.0 GiB"),
    ],
)
def test_a_machine_that_cannot_run_it(machine, answers, message):
    machine(**answers)
    with pytest.raises(UsageError, match=message) as error:
        asked()
    assert str(error.value).startswith("models/base was compiled for sm_90") and "\n" not in str(error.value)


@pytest.mark.parametrize(("capability", "name"), [(80, "sm_80"), (90, "sm_90")])
def test_of_several_targets_the_one_of_the_gpu_is_taken(machine, capability, name):
    machine(CAPABILITY=capability)
    assert place_of("auto", [H100, A100], 1 << 30, "models/base") == (0, name)
    machine(CAPABILITY=89)
    with pytest.raises(UsageError, match="compiled for sm_90 and sm_80, and the GPU cuda:0 is an sm_89"):
        place_of("auto", [H100, A100], 1 << 30, "models/base")


def test_a_number_beyond_the_last(machine):
    machine(COUNT=2)
    with pytest.raises(UsageError, match="no GPU cuda:2 here; the driver finds 2, of which the last is cuda:1"):
        asked("cuda:2")


def test_asking_loads_nothing():
    command = "import sys, whisper2max.runtime.device; print({'max', 'torch'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "set()"
