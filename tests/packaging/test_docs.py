"""Links between the documents lead somewhere, and the README shows commands that exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from whisper2max.cli.commands import app

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("README.md", "CONTRIBUTING.md", "artifacts/README.md")
DOCUMENTS = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(document: Path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    broken = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert broken == []


def test_the_readme_names_every_command_and_target():
    readme, contributing = (ROOT / "README.md").read_text(), (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", readme + contributing, re.MULTILINE)) <= targets
    commands = set(get_command(app).commands)
    assert set(re.findall(r"^\| `whisper2max (\w+)", readme, re.MULTILINE)) == commands
