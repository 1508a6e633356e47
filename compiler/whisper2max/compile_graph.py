"""Compile one graph of a generated `model.py` to a MEF, in a process of its own.

    python -m whisper2max.compile_graph MODEL_PY KERNELS GRAPH OUTPUT_MEF [TAP ...]

The MAX compiler keeps what it compiled in MODULAR_CACHE_DIR and, warmed by a related graph, writes
larger files; the caller gives every graph a fresh directory. An error goes to stderr, exit status 1.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from max.driver import CPU
from max.engine import InferenceSession

from whisper2max.errors import BuildError
from whisper2max.source import explained, load_source


def compile_graph(model_py: Path, kernels: Path, name: str, output: Path, taps: Sequence[str] = ()) -> None:
    """Build graph `name` from source, compile it for this machine and write it to `output`.

    Args:
        model_py: generated source with `BUILDERS`.
        kernels: folder of the Mojo sources.
        name: of the graph.
        output: the MEF to write.
        taps: intermediate values that become extra outputs.

    Raises:
        BuildError: the source fails to run (shown with numbered lines) or MAX refuses the graph.
    """
    model = load_source(model_py)
    with explained(model_py):
        graph = model.BUILDERS[name](kernels=kernels, taps=taps)
    try:
        compiled = InferenceSession(devices=[CPU()]).compile(graph)
    except RuntimeError as error:
        raise BuildError(
            f"MAX did not compile graph {name!r} of {model_py.name}: {error.__cause__ or error}"
        ) from error
    compiled.export_mef(output)


if __name__ == "__main__":
    try:
        compile_graph(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5:])
    except BuildError as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
