"""model.py + Mojo kernels -> one MEF per graph, kept in the user's cache.

A MEF holds machine code and no weights. Its key is a hash of the generated source and the kernels that the graph
reaches (`reached`), of the target and of the versions of MAX and Mojo, so a second checkpoint of the same dimensions
and dtype compiles nothing, and a change of one kernel compiles the graphs that use it.
"""

import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import whisper2max.kernels
from whisper2max.artifact.manifest import GRAPHS_OF, graph_file
from whisper2max.build.cache import GraphCache
from whisper2max.build.reached import kernels_of, reached, texts_of
from whisper2max.build.target import NATIVE, Target
from whisper2max.core.errors import BuildError
from whisper2max.core.held import HeldFile

MOST_AT_A_TIME = 4  # a compilation takes 1.4 GB
Graph = tuple[str, tuple[str, ...]]  # name, and the values that it gives besides its result
KERNELS = Path(whisper2max.kernels.__path__[0])
_MOST_SOURCE = 4 << 20


@dataclass(frozen=True)
class Source:
    """Everything that is compiled, as it was in one moment.

    Attributes:
        model_py: the generated source.
        kernels: the Mojo sources by file name.
    """

    model_py: bytes
    kernels: Mapping[str, bytes]

    @classmethod
    def of(cls, files: Mapping[str, HeldFile]) -> "Source":
        """The model.py and kernels/*.mojo among the files of an artifact.

        Raises:
            Whisper2MaxError: one of them was changed since its hash was taken.
        """
        kernels = {name.removeprefix("kernels/"): name for name in files if name.startswith("kernels/")}
        mojo = {file: name for file, name in sorted(kernels.items()) if "/" not in file and file.endswith(".mojo")}
        return cls(
            files["model.py"].read(_MOST_SOURCE), {file: files[name].read(_MOST_SOURCE) for file, name in mojo.items()}
        )

    @classmethod
    def generated(cls, model_py: str) -> "Source":
        """Generated source with the kernels of this package that it calls."""
        source, kernels = model_py.encode("utf-8"), {path.name: path.read_bytes() for path in KERNELS.glob("*.mojo")}
        return cls(source, dict(sorted(kernels_of(kernels, texts_of(source)).items())))

    def reached(self, graph: str) -> "Source":
        """What this graph alone is made of, which is all that its compiler is given."""
        return Source(*reached(self.model_py, self.kernels, graph))

    def files(self) -> dict[str, bytes]:
        """Content by name relative to an artifact."""
        return {"model.py": self.model_py, **{f"kernels/{name}": content for name, content in self.kernels.items()}}

    def write(self, directory: Path) -> None:
        """Writes model.py and kernels/ to an existing directory."""
        (directory / "kernels").mkdir()
        for name, content in self.files().items():
            (directory / name).write_bytes(content)

    def key(self, target: Target, taps: Sequence[str] = ()) -> str:
        """sha256 of everything that decides what a graph compiled from this source computes and needs."""
        inputs = {
            "source": hashlib.sha256(self.model_py).hexdigest(),
            "kernels": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(self.kernels.items())},
            "cpu_features": target.cpu_features,
            "device": target.device,
            "gpu": _gpu_of(target),
            "versions": compiler_versions(),
            "taps": list(taps),
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _gpu_of(target: Target) -> str:
    return f"{target.gpu.api}:{target.gpu.architecture}" if target.gpu else ""


def compiler_versions() -> dict[str, str]:
    """Installed versions of MAX and of the Mojo compiler, which MAX brings along."""
    return {"max": importlib.metadata.version("max"), "mojo": importlib.metadata.version("mojo-compiler")}


def compile_graphs(
    source: Source,
    directory: Path,
    target: Target,
    say: Callable[[str], None],
    tapped: Mapping[str, Sequence[str]] | None = None,
    folder: str = "",
) -> dict[str, str]:
    """Put the MEF of every graph that ships into `directory`.

    Args:
        source: what to compile.
        directory: holds none of them yet.
        target: the machine to compile for.
        say: told what is compiling; a graph takes one to two minutes when it is not in the cache.
        tapped: graphs to compile for the cache in the same go, as for `compile_tapped`.
        folder: of `directory`, for targets after the first; it is made.

    Returns:
        The hash of each file that was written, by name.

    Raises:
        BuildError: a builder or the compiler failed.
    """
    shipped = {(name, ()): graph_file(name, folder) for name in GRAPHS_OF[target.backend]}
    (directory / folder).mkdir(exist_ok=True)
    also = [(name, tuple(paths)) for name, paths in (tapped or {}).items()]
    hashes = {}
    for graph, kept in _compile_all(source, [*shipped, *also], target, say).items():
        if graph in shipped:
            kept.copy_to(directory / shipped[graph])
            hashes[shipped[graph]] = kept.sha256
    return hashes


def compile_tapped(
    source: Source, taps: Mapping[str, Sequence[str]], target: Target, say: Callable[[str], None]
) -> dict[str, HeldFile]:
    """Graphs whose intermediate values are outputs too, kept in the cache.

    Args:
        source: what to compile.
        taps: graph names, and the values that each gives after its own outputs.
        target: the machine to compile for.
        say: told what is compiling.

    Returns:
        The compiled graphs in the cache, by name.
    """
    graphs = [(name, tuple(paths)) for name, paths in taps.items()]
    return {name: kept for (name, _), kept in _compile_all(source, graphs, target, say).items()}


def _compile_all(
    source: Source, graphs: Sequence[Graph], target: Target, say: Callable[[str], None]
) -> dict[Graph, HeldFile]:
    """Compiled graphs in the cache. The compiler fills one core and a half, so several run at a time."""
    workers = min(MOST_AT_A_TIME, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_compiled, source, name, taps, target, say) for name, taps in graphs]
        try:
            return {graph: future.result() for graph, future in zip(graphs, futures, strict=True)}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _compiled(
    source: Source, name: str, taps: Sequence[str], target: Target, say: Callable[[str], None]
) -> HeldFile:
    """One compiled graph in the cache, compiled now if it is not there."""
    source = source.reached(name)
    key = source.key(target, taps)
    label = f"graph {name} with its values tapped" if taps else f"graph {name}"
    label += f" for {target.name}" if target.name != NATIVE else ""
    cache = GraphCache()
    with cache.lock(f"{key}-{name}", lambda: say(f"{label}: waiting for another process that compiles it")):
        kept = cache.get(key, name)
        if kept is not None:
            if not taps:
                say(f"{label}: from the cache")
            return kept
        say(f"compiling {label}: takes one to two minutes, then kept for models of the same dimensions")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="whisper2max-") as scratch:
            mef = _compile_in_subprocess(source, name, taps, target, Path(scratch))
            seconds = round(time.monotonic() - started, 1)
            info = {"seconds": seconds, "versions": compiler_versions(), "target": target.name, "taps": len(taps)}
            kept = cache.put(key, name, mef, info)
        say(f"compiled {label} in {seconds:.0f} s")
        return kept


def _compile_in_subprocess(
    source: Source, name: str, taps: Sequence[str], target: Target, scratch: Path
) -> Path:
    """The MEF, in a private and empty directory that is the process's working directory too.

    -P keeps Python from looking for modules there; what PYTHONPATH names is the user's own choice, and stays what it
    is here. An empty entry, which stands for the working directory, is seldom meant and is left out.
    """
    folders = {each: scratch / each for each in ("source", "modular-cache", "temporary", "working")}
    for folder in folders.values():
        folder.mkdir()
    source.write(folders["source"])
    mef = scratch / f"{name}.mef"
    environment = {
        **os.environ,
        "MODULAR_CACHE_DIR": str(folders["modular-cache"]),
        "TMPDIR": str(folders["temporary"]),
    }
    if searched := os.environ.get("PYTHONPATH"):
        entries = [os.path.abspath(entry) for entry in searched.split(os.pathsep) if entry]
        environment["PYTHONPATH"] = os.pathsep.join(entries)
    sources = [str(folders["source"] / each) for each in ("model.py", "kernels")]
    places = [f"--gpu={_gpu_of(target)}", f"--device={target.device}", f"--cpu={target.compiler_cpu}"]
    arguments = [*sources, name, str(mef), *taps, *places]
    command = [sys.executable, "-P", "-m", "whisper2max.build.compile_graph", *arguments]
    result = subprocess.run(
        command,
        cwd=folders["working"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode or not mef.is_file():
        output = (result.stderr or result.stdout).strip()
        if result.returncode == -signal.SIGKILL:
            output += "\nIt was killed, as the system does where memory runs out: a graph for a GPU takes up to 6 GiB."
        raise BuildError(f"graph {name!r} did not compile (exit status {result.returncode}):\n{output[-6000:]}")
    return mef
