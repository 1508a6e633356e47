"""The golden builders: model.py of small dimensions, one of each backend in full, the others as what differs from it.

    python tests/helpers/goldens.py     rewrites tests/graph/golden; read the difference before you commit it
"""

import difflib
from pathlib import Path

from small_models import VARIANTS, packed_spec

from whisper2max.graph.emit import emit

FOLDER = Path(__file__).parents[1] / "graph" / "golden"
NARROW = VARIANTS["english_80_mels"]
FULL = {"cpu": "int8", "max": "max_bfloat16"}
CASES = {
    "int8": (NARROW, "int8", "cpu"),
    "bfloat16": (NARROW, "bfloat16", "cpu"),
    **{variant: (dims, "float32", "cpu") for variant, dims in VARIANTS.items()},
    "max_bfloat16": (NARROW, "bfloat16", "max"),
    "max_float32": (NARROW, "float32", "max"),
    "max_large_v3": (VARIANTS["large_v3_128_mels"], "bfloat16", "max"),
}


def emitted(name: str) -> str:
    """The source that a case of `CASES` gives now."""
    return emit(packed_spec(*CASES[name]))


def golden_file(name: str) -> Path:
    """The source itself for the cases of `FULL`; for any other a unified diff that begins at that of its backend."""
    return FOLDER / (f"{name}.py.golden" if name in FULL.values() else f"{name}.diff")


def as_golden(name: str, source: str) -> str:
    """What the golden file of a case must hold for this to be its source."""
    if name in FULL.values():
        return source
    begin = FULL[CASES[name][2]]
    full = golden_file(begin).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(difflib.unified_diff(full, source.splitlines(keepends=True), begin, name, n=1))


def rewrite() -> None:
    """Write the golden file of every case, the one in full first."""
    for name in sorted(CASES, key=lambda name: name not in FULL.values()):
        golden_file(name).write_text(as_golden(name, emitted(name)), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
