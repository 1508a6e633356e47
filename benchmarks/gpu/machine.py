"""What a machine with a GPU is and has."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

FIELDS = (
    "name", "driver_version", "memory.total", "memory.used", "pstate", "clocks.sm", "clocks.max.sm", "clocks.mem",
    "clocks.max.mem", "power.draw", "power.limit", "temperature.gpu", "utilization.gpu",
)  # fmt: skip
PACKAGES = {
    "max": "max", "av": "av", "numpy": "numpy", "tokenizers": "tokenizers", "safetensors": "safetensors",
    "torch": "torch", "triton": "triton", "transformers": "transformers", "whisper": "openai-whisper",
}  # fmt: skip
LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")
DRIVER_FOLDERS = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/wsl/lib")


def facts() -> dict[str, Any]:
    """Processor, system, GPU as nvidia-smi has it, and what can be imported, with versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "gpu": gpu(),
        "packages": {module: installed(module, package) for module, package in PACKAGES.items()},
    }


def gpu() -> dict[str, str]:
    """What nvidia-smi says now; {"error": ..} where it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    first = found.splitlines()[0] if found else ""
    return dict(zip(FIELDS, (value.strip() for value in first.split(",")), strict=False))


def installed(module: str, package: str) -> str | None:
    """Version of a package that could be imported; None where there is none."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def cuda_facts(torch) -> dict[str, Any]:
    """What PyTorch says of its CUDA and of the GPU."""
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "gib_free": round(free / 2**30, 1),
        "gib": round(total / 2**30, 1),
    }


def ceilings(torch) -> dict[str, float]:
    """What this GPU does at most: TB/s of a copy, read and written, and TFLOP/s of a product in bfloat16, medians."""
    from gpu.race import Contender, race

    size, n = 1 << 32, 8192
    a = torch.empty(size, dtype=torch.uint8, device="cuda").random_()
    b = torch.empty_like(a)
    x, y = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    wait = torch.cuda.synchronize
    makers = {"copy": lambda: Contender(lambda: b.copy_(a), wait), "product": lambda: Contender(lambda: x @ y, wait)}
    medians = race(makers, 10, 10)["medians"]
    rates = {"copy_tb_s": 2 * size / medians["copy"], "bfloat16_tflop_s": 2 * n**3 / medians["product"]}
    return {name: round(rate / 1e12, 2) for name, rate in rates.items()}


def with_driver() -> dict[str, str]:
    """The environment, with the folder of NVIDIA's driver where the loader does not know it.

    Some machines have it in a folder of its own. MAX wants both libraries.
    """
    environment = dict(os.environ)
    try:
        for library in LIBRARIES:
            ctypes.CDLL(library)
    except OSError:
        found = [each for each in DRIVER_FOLDERS if all(Path(each, library).exists() for library in LIBRARIES)]
        paths = [*found[:1], environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, paths))
    return environment


def use_kit(kit: Path) -> None:
    """Import from what unpack.py made: its packages first, those that the machine may have itself last."""
    if (kit / "site").is_dir():
        sys.path.insert(0, str(kit / "site"))
        sys.path.append(str(kit / "spare"))
