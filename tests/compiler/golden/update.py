"""Rewrite the golden builders: python tests/compiler/golden/update.py, then read the diff."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from small_models import VARIANTS  # noqa: E402
from test_emit import emitted  # noqa: E402

for variant in VARIANTS:
    (HERE / f"{variant}.py.golden").write_text(emitted(variant), encoding="utf-8")
