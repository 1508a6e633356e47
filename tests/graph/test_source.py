"""Generated source that fails while it runs is shown with line numbers."""

import pytest

from whisper2max.core.errors import BuildError
from whisper2max.graph.source import explained, load_source


def test_a_failing_import_shows_the_line(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("WIDTH = 4\nHEAD = WIDTH // 0\n")
    with pytest.raises(BuildError, match=r"model.py failed at line 2: ZeroDivisionError") as caught:
        load_source(path)
    assert ">    2 | HEAD = WIDTH // 0" in str(caught.value)


def test_a_failing_builder_shows_its_innermost_line(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("def inner():\n    raise KeyError('x')\n\n\ndef build():\n    inner()\n")
    model = load_source(path)
    with pytest.raises(BuildError, match=r"line 2: KeyError"), explained(path):
        model.build()


def test_an_error_from_elsewhere_passes_through(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("VALUE = 1\n")
    with pytest.raises(ZeroDivisionError), explained(path):
        1 / 0  # noqa: B018
