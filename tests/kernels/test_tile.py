"""The instructions that the register tile is compiled to, also for CPUs that this machine is not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import whisper2max.kernels

MOJO = Path(sys.executable).with_name("mojo")
KERNELS = Path(whisper2max.kernels.__path__[0])

# A tile of most rows in every format, and rounding to bfloat16.
PROGRAM = """
from kernels.pack import rounded
from kernels.tile import LANES, PANEL, ROWS, multiply

comptime Words = Pointer[Int32, ImmUntrackedOrigin]


@export
def tile_float32(sums: Pointer[Float32, MutUntrackedOrigin], x: Words, panel: Words, words: Int) abi("C"):
    multiply[DType.float32, ROWS, ROWS, 1](sums, PANEL, x, panel, words)


@export
def tile_bfloat16(sums: Pointer[Float32, MutUntrackedOrigin], x: Words, panel: Words, words: Int) abi("C"):
    multiply[DType.bfloat16, ROWS, ROWS, 1](sums, PANEL, x, panel, words)


@export
def tile_int8(sums: Pointer[Int32, MutUntrackedOrigin], x: Words, panel: Words, words: Int) abi("C"):
    multiply[DType.int8, ROWS, ROWS, 1](sums, PANEL, x, panel, words)


@export
def tile_int16(sums: Pointer[Float32, MutUntrackedOrigin], x: Words, panel: Words, words: Int) abi("C"):
    multiply[DType.int16, ROWS, ROWS, 1](sums, PANEL, x, panel, words)


@export
def round_to_bfloat16(y: Pointer[Int32, MutUntrackedOrigin], x: Pointer[Float32, ImmUntrackedOrigin]) abi("C"):
    y.unsafe_store(rounded[DType.bfloat16, LANES // 2](x.unsafe_load[width=LANES]()))
"""

# target: (triple, CPU, instruction and its number per word of a whole tile, by format)
TARGETS = {
    "AVX-512": (
        "x86_64",
        "znver4",
        {"float32": "vfmadd", "bfloat16": "vdpbf16ps", "int8": "vpdpbusd", "int16": "vpdpwssd"},
        24,
    ),
    "AVX2": (
        "x86_64",
        "x86-64-v3",
        {"float32": "vfmadd", "bfloat16": "vfmadd", "int8": "vpmaddwd", "int16": "vpmaddwd"},
        12,
    ),
    "SSE": (
        "x86_64",
        "x86-64-v2",
        {"float32": "mulps", "bfloat16": "mulps", "int8": "pmaddwd", "int16": "pmaddwd"},
        12,
    ),
    # attention is not in int16 there
    "ARM": ("aarch64", "neoverse-n1", {"float32": "fmla", "bfloat16": "fmla", "int8": "sdot"}, 24),
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_format_has_the_instruction_of_the_cpu_and_no_calls(name, tmp_path):
    machine, cpu, instructions, per_word = TARGETS[name]
    (tmp_path / "kernels").symlink_to(KERNELS)
    (tmp_path / "tile.mojo").write_text(PROGRAM)
    target = ["--target-triple", f"{machine}-unknown-linux-gnu", "--target-cpu", cpu]
    command = [MOJO, "build", "tile.mojo", "--emit", "asm", *target, "-o", "tile.s"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assembly = (tmp_path / "tile.s").read_text()
    functions = dict(re.findall(r"^(\w+):(.*?)^\.Lfunc_end", assembly, re.DOTALL | re.MULTILINE))
    for format_, instruction in instructions.items():
        code = functions[f"tile_{format_}"]
        assert len(re.findall(rf"\t{instruction}", code)) >= per_word, f"{format_} without {instruction}"
    for function in (*(f"tile_{format_}" for format_ in instructions), "round_to_bfloat16"):
        assert not re.search(r"\t(callq?|bl)\s", functions[function]), f"{function} calls another function"
