"""model.py + Mojo kernels -> one MEF per graph, kept in the user's cache.

A MEF holds machine code and no weights. Its key is a hash of the generated source, the kernels, the
target and the versions of MAX and Mojo, so a second checkpoint of the same dimensions and dtype
compiles nothing.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import whisper2max.kernels
from whisper2max.cache import GraphCache
from whisper2max.errors import BuildError
from whisper2max.target import Target

GRAPHS = ("encoder", "prompt", "step")
KERNELS = Path(whisper2max.kernels.__path__[0])


def copy_kernels(destination: Path) -> None:
    """Copy the Mojo sources of the package to a new folder."""
    destination.mkdir()
    for source in sorted(KERNELS.glob("*.mojo")):
        shutil.copyfile(source, destination / source.name)


def graph_key(model_py: Path, kernels: Path, target: Target) -> str:
    """sha256 of everything that decides what the compiled graphs of `model_py` compute and need."""
    inputs = {
        "source": hashlib.sha256(model_py.read_bytes()).hexdigest(),
        "kernels": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(kernels.glob("*.mojo"))
        },
        "cpu_features": target.cpu_features,
        "versions": compiler_versions(),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def compiler_versions() -> dict[str, str]:
    """Installed versions of MAX and of the Mojo compiler, which MAX brings along."""
    return {"max": importlib.metadata.version("max"), "mojo": importlib.metadata.version("mojo-compiler")}


def compile_graphs(directory: Path, target: Target, say: Callable[[str], None]) -> None:
    """Put encoder.mef, prompt.mef and step.mef beside the model.py and kernels/ in `directory`.

    Args:
        directory: holds model.py and kernels/.
        target: the machine to compile for.
        say: told what is compiling; a graph takes one to two minutes when it is not in the cache.

    Raises:
        BuildError: a builder or the compiler failed.
    """
    model_py, kernels = directory / "model.py", directory / "kernels"
    key = graph_key(model_py, kernels, target)
    cache = GraphCache()
    for number, name in enumerate(GRAPHS, 1):
        label = f"graph {number} of {len(GRAPHS)}, {name}"
        with cache.lock(f"{key}-{name}"):
            kept = cache.get(key, name)
            if kept is None:
                say(f"compiling {label}: takes one to two minutes, then kept for models of the same dimensions")
                started = time.monotonic()
                with tempfile.TemporaryDirectory(prefix="whisper2max-") as scratch:
                    mef = Path(scratch) / f"{name}.mef"
                    _compile_in_subprocess(model_py, kernels, name, mef, Path(scratch))
                    info = {"seconds": round(time.monotonic() - started, 1), "versions": compiler_versions()}
                    kept = cache.put(key, name, mef, info)
                say(f"compiled {name} in {info['seconds']:.0f} s")
            else:
                say(f"{label}: from the cache")
            shutil.copyfile(kept, directory / f"{name}.mef")


def _compile_in_subprocess(model_py: Path, kernels: Path, name: str, mef: Path, scratch: Path) -> None:
    environment = {**os.environ, "MODULAR_CACHE_DIR": str(scratch / "modular-cache"), "TMPDIR": str(scratch)}
    command = [sys.executable, "-m", "whisper2max.compile_graph", str(model_py), str(kernels), name, str(mef)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode or not mef.is_file():
        output = (result.stderr or result.stdout).strip()
        raise BuildError(f"graph {name!r} did not compile (exit status {result.returncode}):\n{output[-6000:]}")
