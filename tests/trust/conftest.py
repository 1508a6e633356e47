"""What the tests of crafted input share; the modules of neighbouring areas are importable."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / area) for area in ("checkpoints", "compiler", "trust")]
