"""Where a comparison was made, and of which files."""

import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whisper2max.build.compiler import GRAPHS
from whisper2max.core.cpu import native_cpu_features
from whisper2max.core.held import HeldFile


def environment(versions: Mapping[str, str]) -> dict[str, Any]:
    """Date, CPU, its features, threads and versions, as parity.json records them."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cpu_features": native_cpu_features(),
        "threads": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), **versions},
    }


def hashes(files: Mapping[str, HeldFile]) -> dict[str, str]:
    """sha256 of the files that were compared."""
    names = ["model.py", "weights.safetensors", *(f"{name}.mef" for name in GRAPHS)]
    return {name: files[name].sha256 for name in names}


def _cpu_name() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()
