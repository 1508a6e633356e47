"""Rewrite the golden builders: python tests/compiler/golden/update.py, then read the diff."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from small_models import VARIANTS, packed_spec  # noqa: E402
from test_emit import NARROW, emitted  # noqa: E402

from whisper2max.graph.emit import emit  # noqa: E402

for variant in VARIANTS:
    (HERE / f"{variant}.py.golden").write_text(emitted(variant), encoding="utf-8")
for dtype in ("bfloat16", "int8"):
    source = emit(packed_spec(VARIANTS[NARROW], dtype))
    (HERE / f"{dtype}.py.golden").write_text(source, encoding="utf-8")
