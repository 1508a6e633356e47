"""Mojo programs that try modules of the kernels, and copies of these modules with a mistake in them, in one build."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import whisper2max.kernels

MOJO = Path(sys.executable).with_name("mojo")
KERNELS = Path(whisper2max.kernels.__path__[0])
MODULES = ("phases", "share")

Change = tuple[str, str]


def build(folder: Path, source: Path, mistakes: Mapping[str, Change]) -> Path:
    """Build `source`, whose `check` raises when something is wrong.

    Args:
        folder: for what is written.
        source: a Mojo file that imports from `kernels`.
        mistakes: by name, a text of one of the modules and what to put in its place.

    Returns:
        The program; its first argument is "good" or the name of a mistake.
    """
    cases = []
    for name, (old, new) in {"good": ("", ""), **mistakes}.items():
        package = folder / f"kernels_{name}"
        package.mkdir()
        (package / "__init__.mojo").touch()
        texts = {module: (KERNELS / f"{module}.mojo").read_text() for module in MODULES}
        assert not old or sum(text.count(old) for text in texts.values()) == 1, f"{name}: {old!r} is not there once"
        for module, text in texts.items():
            (package / f"{module}.mojo").write_text(text.replace(old, new) if old else text)
        check = source.read_text().replace("from kernels.", f"from kernels_{name}.")
        (folder / f"check_{name}.mojo").write_text(check)
        cases.append(f'    if argv()[1] == "{name}":\n        check_{name}.check()\n')
    imports = "".join(f"import check_{name}\n" for name in ("good", *mistakes))
    main = folder / "main.mojo"
    main.write_text(f"from std.sys import argv\n{imports}\n\ndef main() raises:\n{''.join(cases)}")
    result = subprocess.run([MOJO, "build", main, "-o", folder / "main"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder / "main"
