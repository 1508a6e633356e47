"""Which device a model runs on, asked and answered before anything is loaded.

The driver is asked itself, by its C functions, so that a machine without one, with an old one or with another GPU gets
one sentence instead of what MAX says from deep inside.
"""

import ctypes
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from whisper2max.core.errors import UsageError

DEVICES = "auto, cpu, cuda or cuda:NUMBER"
CUDA_NEEDED = 13_000
"""What `cuDriverGetVersion` gives for CUDA 13.0, which MAX 26.7 needs."""
DRIVER_NEEDED = 580
"""NVIDIA's number of the first driver that has it."""
ROOM = 2 << 30
"""Bytes of a GPU besides the weights: what MAX takes for itself, pools and values on the way."""

_NO_DEVICE = 100
_COMPUTE_CAPABILITY = 75, 76  # of CUdevice_attribute


class Place(NamedTuple):
    """Where an artifact is to run.

    Attributes:
        gpu: its number; None for the CPU.
        target: name of the target whose graphs run there.
    """

    gpu: int | None
    target: str


def place_of(device: str, targets: Sequence[Mapping[str, Any]], weights: int, name: object) -> Place:
    """Where an artifact is to run.

    Args:
        device: "auto" for what the artifact was compiled for, "cpu", "cuda" for GPU 0, or "cuda:NUMBER".
        targets: of the manifest: one of a CPU, or some of GPUs.
        weights: bytes of weights.safetensors.
        name: of the artifact, for messages.

    Raises:
        UsageError: there is no such device, or the artifact was compiled for another one, or it has no room.
    """
    if device not in ("auto", "cpu", "cuda") and not re.fullmatch(r"cuda:[0-9]{1,3}", device):
        raise UsageError(f"device is {device!r:.40}; choose {DEVICES}.")
    names = " and ".join(target["name"] for target in targets)
    if not targets[0].get("gpu"):
        if device.startswith("cuda"):
            raise UsageError(
                f"{name} was compiled for the CPU ({names}). For a GPU convert the checkpoint with "
                "--target sm_90, or the architecture that yours has."
            )
        return Place(None, targets[0]["name"])
    if device == "cpu":
        raise UsageError(
            f"{name} was compiled for the GPU {names}. For this CPU convert the checkpoint without --target."
        )
    by_architecture = {target["gpu"]["architecture"]: target["name"] for target in targets}
    number = int(device.partition(":")[2] or 0)
    architecture = _architecture(number, list(by_architecture), weights + ROOM, f"{name} was compiled for {names}")
    return Place(number, by_architecture[architecture])


def _architecture(number: int, offered: Sequence[str], needed: int, compiled: str) -> str:
    """Which of the offered architectures the GPU of this number has.

    Raises:
        UsageError: it is not there, has none of them, or fewer than the needed bytes.
    """
    driver = _driver(compiled)
    count = ctypes.c_int()
    found = driver.cuInit(0)
    if found not in (0, _NO_DEVICE):
        raise UsageError(f"{compiled}, and the NVIDIA driver here does not start: cuInit gives error {found}.")
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if version.value < CUDA_NEEDED:
        has = f"{version.value // 1000}.{version.value % 1000 // 10}"
        raise UsageError(
            f"{compiled}, and the NVIDIA driver here is one for CUDA {has}: install driver {DRIVER_NEEDED} or later, "
            "which has CUDA 13.0."
        )
    if found != _NO_DEVICE:
        driver.cuDeviceGetCount(ctypes.byref(count))
    if number >= count.value:
        there = "none" if not count.value else f"{count.value}, of which the last is cuda:{count.value - 1}"
        raise UsageError(f"{compiled}, and there is no GPU cuda:{number} here; the driver finds {there}.")
    device = ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), number)
    major, minor = (_attribute(driver, device, which) for which in _COMPUTE_CAPABILITY)
    fitting = [architecture for architecture in offered if re.sub(r"\D", "", architecture) == f"{major}{minor}"]
    if not fitting:
        raise UsageError(
            f"{compiled}, and the GPU cuda:{number} is an sm_{major}{minor}, which cannot run it: convert the "
            f"checkpoint with --target sm_{major}{minor} if that is offered."
        )
    memory = ctypes.c_size_t()
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    if memory.value < needed:
        raise UsageError(
            f"{compiled} and needs {needed / 2**30:.1f} GiB of a GPU; cuda:{number} has {memory.value / 2**30:.1f} GiB."
        )
    return fitting[0]


def _driver(compiled: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise UsageError(
            f"{compiled}, and there is no NVIDIA driver here (libcuda.so.1 is not found): install driver "
            f"{DRIVER_NEEDED} or later. No CUDA toolkit is needed."
        ) from error


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value
