"""Products of 1500 rows beside the inner loop that they are made of: python benchmarks/kernels/tile.py [SIZE ..]

The inner loop (kernels/tile.mojo) on data in the first-level cache, on all CPUs, is what a product could reach at most.
A product packs fresh rows, reads weights of its whole shape, and adds scales and bias.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import whisper2max.kernels

sys.path.insert(0, str(Path(__file__).parents[1]))

from linear import STATES  # noqa: E402
from measure import conditions  # noqa: E402

MOJO = Path(sys.executable).with_name("mojo")


def main() -> None:
    states = [str(STATES[size]) for size in sys.argv[1:] or STATES]
    print(conditions(("mojo", "whisper2max")))
    print("| format | rows x inputs x outputs | inner loop, GOP/s | product, GOP/s | of the inner loop |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "tile"
        (Path(folder) / "kernels").symlink_to(Path(whisper2max.kernels.__path__[0]))
        source = Path(__file__).with_suffix(".mojo")
        subprocess.run([MOJO, "build", "-I", folder, source, "-o", program], check=True)
        measured = subprocess.run([program, *states], check=True, capture_output=True, text=True).stdout
    for line in measured.splitlines():
        dtype, n_in, n_out, hot, fresh, percent = line.split("\t")
        print(f"| {dtype} | 1500 x {n_in} x {n_out} | {hot} | {fresh} | {percent} % |")


if __name__ == "__main__":
    main()
