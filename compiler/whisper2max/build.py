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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import whisper2max.kernels
from whisper2max.cache import GraphCache
from whisper2max.errors import BuildError
from whisper2max.target import Target

GRAPHS = ("features", "encoder", "prompt", "step")
MOST_AT_A_TIME = 4  # a compilation takes 1.4 GB
Graph = tuple[str, tuple[str, ...]]  # name, and the values that it gives besides its result
KERNELS = Path(whisper2max.kernels.__path__[0])


def copy_kernels(destination: Path) -> None:
    """Copy the Mojo sources of the package to a new folder."""
    destination.mkdir()
    for source in sorted(KERNELS.glob("*.mojo")):
        shutil.copyfile(source, destination / source.name)


def graph_key(model_py: Path, kernels: Path, target: Target, taps: Sequence[str] = ()) -> str:
    """sha256 of everything that decides what the compiled graphs of `model_py` compute and need."""
    inputs = {
        "source": hashlib.sha256(model_py.read_bytes()).hexdigest(),
        "kernels": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(kernels.glob("*.mojo"))
        },
        "cpu_features": target.cpu_features,
        "versions": compiler_versions(),
        "taps": list(taps),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def compiler_versions() -> dict[str, str]:
    """Installed versions of MAX and of the Mojo compiler, which MAX brings along."""
    return {"max": importlib.metadata.version("max"), "mojo": importlib.metadata.version("mojo-compiler")}


def compile_graphs(
    directory: Path, target: Target, say: Callable[[str], None], tapped: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Put the MEF of every graph that ships beside the model.py and kernels/ in `directory`.

    Args:
        directory: holds model.py and kernels/.
        target: the machine to compile for.
        say: told what is compiling; a graph takes one to two minutes when it is not in the cache.
        tapped: graphs to compile for the cache in the same go, as for `compile_tapped`.

    Raises:
        BuildError: a builder or the compiler failed.
    """
    shipped = {(name, ()): directory / f"{name}.mef" for name in GRAPHS}
    also = [(name, tuple(paths)) for name, paths in (tapped or {}).items()]
    for graph, kept in _compile_all(directory, [*shipped, *also], target, say).items():
        if graph in shipped:
            shutil.copyfile(kept, shipped[graph])


def compile_tapped(
    directory: Path, taps: Mapping[str, Sequence[str]], target: Target, say: Callable[[str], None]
) -> dict[str, Path]:
    """Graphs of the model.py in `directory` whose intermediate values are outputs too, kept in the cache.

    Args:
        directory: holds model.py and kernels/.
        taps: graph names, and the values that each gives after its own outputs.
        target: the machine to compile for.
        say: told what is compiling.

    Returns:
        Paths of the compiled graphs in the cache, by name.
    """
    graphs = [(name, tuple(paths)) for name, paths in taps.items()]
    return {name: kept for (name, _), kept in _compile_all(directory, graphs, target, say).items()}


def _compile_all(
    directory: Path, graphs: Sequence[Graph], target: Target, say: Callable[[str], None]
) -> dict[Graph, Path]:
    """Compiled graphs in the cache. The compiler fills one core and a half, so several run at a time."""
    workers = min(MOST_AT_A_TIME, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_compiled, directory, name, taps, target, say) for name, taps in graphs]
        try:
            return {graph: future.result() for graph, future in zip(graphs, futures, strict=True)}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _compiled(
    directory: Path, name: str, taps: Sequence[str], target: Target, say: Callable[[str], None]
) -> Path:
    """One compiled graph in the cache, compiled now if it is not there."""
    model_py, kernels = directory / "model.py", directory / "kernels"
    key = graph_key(model_py, kernels, target, taps)
    label = f"graph {name} with its values tapped" if taps else f"graph {name}"
    label += f" for {target.name}" if target.compiler_cpu else ""
    cache = GraphCache()
    with cache.lock(f"{key}-{name}"):
        kept = cache.get(key, name)
        if kept is not None:
            if not taps:
                say(f"{label}: from the cache")
            return kept
        say(f"compiling {label}: takes one to two minutes, then kept for models of the same dimensions")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="whisper2max-") as scratch:
            mef = Path(scratch) / f"{name}.mef"
            _compile_in_subprocess(model_py, kernels, name, taps, target, mef, Path(scratch))
            seconds = round(time.monotonic() - started, 1)
            info = {"seconds": seconds, "versions": compiler_versions(), "target": target.name, "taps": len(taps)}
            kept = cache.put(key, name, mef, info)
        say(f"compiled {label} in {seconds:.0f} s")
        return kept


def _compile_in_subprocess(
    model_py: Path, kernels: Path, name: str, taps: Sequence[str], target: Target, mef: Path, scratch: Path
) -> None:
    environment = {**os.environ, "MODULAR_CACHE_DIR": str(scratch / "modular-cache"), "TMPDIR": str(scratch)}
    arguments = [str(model_py), str(kernels), name, str(mef), *taps, f"--cpu={target.compiler_cpu}"]
    command = [sys.executable, "-m", "whisper2max.compile_graph", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode or not mef.is_file():
        output = (result.stderr or result.stdout).strip()
        raise BuildError(f"graph {name!r} did not compile (exit status {result.returncode}):\n{output[-6000:]}")
