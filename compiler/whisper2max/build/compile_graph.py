"""Compile one graph of a generated `model.py` to a MEF, in a process of its own.

    python -m whisper2max.build.compile_graph MODEL_PY KERNELS GRAPH OUTPUT_MEF [TAP ...]
        [--cpu CPU] [--device DEVICE] [--gpu API:ARCHITECTURE]

The MAX compiler keeps what it compiled in MODULAR_CACHE_DIR and, warmed by a related graph, writes
larger files; the caller gives every graph a fresh directory. An error goes to stderr, exit status 1.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from max.driver import (
    CPU,
    Accelerator,
    Device,
    set_virtual_cpu_target,
    set_virtual_device_api,
    set_virtual_device_count,
    set_virtual_device_target_arch,
)
from max.engine import InferenceSession

from whisper2max.core.errors import BuildError
from whisper2max.graph.source import explained, load_source


def compile_graph(
    model_py: Path,
    kernels: Path,
    name: str,
    output: Path,
    taps: Sequence[str] = (),
    cpu: str = "",
    device: str = "",
    gpu: str = "",
) -> None:
    """Build graph `name` from source, compile it and write it to `output`. Once per process: targets are global to MAX.

    Args:
        model_py: generated source with `BUILDERS`.
        kernels: folder of the Mojo sources.
        name: of the graph.
        output: the MEF to write.
        taps: intermediate values that become extra outputs.
        cpu: LLVM's name of the CPU to compile for; empty for the one of this machine.
        device: given to the builder by name; empty where it takes none.
        gpu: API and architecture of the GPU to compile for, such as "cuda:sm_90a"; it need not be there.

    Raises:
        BuildError: the source fails to run (shown with numbered lines) or MAX refuses the graph.
    """
    if cpu:
        set_virtual_cpu_target(cpu)
    devices: list[Device] = [CPU()] if not gpu else [virtual_gpu(*gpu.split(":"))]
    model = load_source(model_py)
    with explained(model_py):
        on_device = {"device": device} if device else {}
        graph = model.BUILDERS[name](kernels=kernels, taps=taps, **on_device)
    try:
        compiled = InferenceSession(devices=devices).compile(graph)
    except RuntimeError as error:
        raise BuildError(
            f"MAX did not compile graph {name!r} of {model_py.name}: {error.__cause__ or error}"
        ) from error
    compiled.export_mef(output)


def virtual_gpu(api: str, architecture: str) -> Device:
    """A GPU that need not be there, for which this process compiles."""
    set_virtual_device_api(api)
    set_virtual_device_target_arch(architecture)
    set_virtual_device_count(1)
    return Accelerator()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="compile_graph")
    parser.add_argument("model_py", type=Path)
    parser.add_argument("kernels", type=Path)
    parser.add_argument("name")
    parser.add_argument("output", type=Path)
    parser.add_argument("taps", nargs="*")
    parser.add_argument("--cpu", default="")
    parser.add_argument("--device", default="")
    parser.add_argument("--gpu", default="")
    try:
        compile_graph(**vars(parser.parse_args()))
    except BuildError as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
    # the file is complete; MAX 26.7 now and then aborts while its threads are torn down
    sys.stderr.flush()
    os._exit(0)
