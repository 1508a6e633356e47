"""Joins, checks and unpacks what pack.py made: python3 benchmarks/gpu/unpack.py PIECES DEST

Pieces may come in several calls: those that arrived are kept in DEST, and the exit status is 3 until all are there.
Needs Python's library and numpy alone. DEST then holds

    site       MAX's runtime and the other packages; whisper2max
    spare      packages that are used where the machine has none of its own
    artifact   compiled graphs, weights, tokenizer
    samples    recordings, and the tokens that are expected of them
    benchmarks this folder, as it was packed
"""

import argparse
import shutil
import sys
import tarfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from gpu.pieces import MANIFEST, collect, join, read_manifest  # noqa: E402
from gpu.planes import restored  # noqa: E402

INCOMPLETE = 3
FOLDERS = ("site", "spare", "artifact", "samples", "benchmarks")
PROGRAMS, WEIGHTS = "programs.tar.xz", "weights.planes"
ARTIFACT_WEIGHTS = Path("artifact", "weights.safetensors")


def main() -> int:
    """0 if everything is unpacked, 3 if pieces are still missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", type=Path, help=f"folder with {MANIFEST} and some of the pieces")
    parser.add_argument("dest", type=Path, help="folder that is made; it stays between calls")
    asked = parser.parse_args()
    return unpack(asked.pieces, asked.dest)


def unpack(source: Path, dest: Path) -> int:
    """As `main`; says on standard output what happened."""
    started = time.monotonic()
    manifest = read_manifest(source)
    if (dest / MANIFEST).exists() and read_manifest(dest)["sha256"] == manifest["sha256"]:
        print(f"{dest} is complete already")
        return 0
    kept = dest / "pieces"
    missing, damaged = collect(source, kept, manifest)
    for name in damaged:
        print(f"{name} is damaged: carry it again")
    if missing:
        print(f"still missing: {', '.join(missing)}, of {len(manifest['pieces'])} pieces")
        return INCOMPLETE
    (dest / MANIFEST).unlink(missing_ok=True)
    for folder in FOLDERS:
        shutil.rmtree(dest / folder, ignore_errors=True)
    whole = dest / "whole.tar"
    join(kept, whole, manifest)
    with tarfile.open(whole) as outer:
        with tarfile.open(fileobj=outer.extractfile(PROGRAMS), mode="r:xz") as programs:
            programs.extractall(dest, filter="data")
        (dest / ARTIFACT_WEIGHTS).write_bytes(restored(outer.extractfile(WEIGHTS).read()))
    whole.unlink()
    shutil.copyfile(source / MANIFEST, dest / MANIFEST)  # last: without it nothing is complete
    shutil.rmtree(kept)
    print(f"unpacked into {dest} in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
