"""The golden builders: model.py of small dimensions, one in full and the others as what differs from it.

    python tests/helpers/goldens.py     rewrites tests/graph/golden; read the difference before you commit it
"""

import difflib
from pathlib import Path

from small_models import VARIANTS, packed_spec

from whisper2max.graph.emit import emit

FOLDER = Path(__file__).parents[1] / "graph" / "golden"
FULL = "int8"
NARROW = VARIANTS["english_80_mels"]
CASES = {FULL: (NARROW, "int8"), "bfloat16": (NARROW, "bfloat16")}
CASES |= {variant: (dims, "float32") for variant, dims in VARIANTS.items()}


def emitted(name: str) -> str:
    """The source that a case of `CASES` gives now."""
    dims, dtype = CASES[name]
    return emit(packed_spec(dims, dtype))


def golden_file(name: str) -> Path:
    """The source itself for the case `FULL`; for any other case a unified diff that begins at that source."""
    return FOLDER / (f"{name}.py.golden" if name == FULL else f"{name}.diff")


def as_golden(name: str, source: str) -> str:
    """What the golden file of a case must hold for this to be its source."""
    if name == FULL:
        return source
    full = golden_file(FULL).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(difflib.unified_diff(full, source.splitlines(keepends=True), FULL, name, n=1))


def rewrite() -> None:
    """Write the golden file of every case, the one in full first."""
    for name in CASES:
        golden_file(name).write_text(as_golden(name, emitted(name)), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
