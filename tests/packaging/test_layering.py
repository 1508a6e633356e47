"""Imports run in one direction, and heavy packages stay where they belong.

Two tables state the architecture. When a test here fails, either the import is in the wrong place, or the
architecture changed: then change the table, and say why in the commit.
"""

import ast
import fnmatch
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    "whisper2max": ROOT / "compiler" / "whisper2max",
    "whisper2max.kernels": ROOT / "kernels",
    "whisper2max.runtime": ROOT / "runtime",
    "whisper2max.samples": ROOT / "samples",
    "whisper2max.templates": ROOT / "templates",
}

# Which modules (below whisper2max) may import a package that is neither ours nor Python's.
MAY_IMPORT = {
    "av": ["runtime.audio", "samples.make_sample"],
    "huggingface_hub": ["checkpoints.*"],
    "jinja2": ["emit", "parity.html"],
    "max": ["compile_graph", "parity.shipped", "parity.tapped", "runtime.*"],
    "numpy": ["checkpoints.*", "comparison", "parity.*", "passes", "proof", "runtime.*"],
    "rich": ["parity.terminal", "terminal"],
    "safetensors": ["checkpoints.*", "conversion", "parity.kept", "runtime.*"],
    "tokenizers": ["checkpoints.*", "runtime.tokens"],
    "torch": ["checkpoints.*", "conversion", "converters.*", "parity.reference", "passes", "verification", "walker"],
    "transformers": ["checkpoints.*", "parity.reference"],
    "typer": ["cli", "commands"],
    "whisper": [],
}

# Which of our own modules a room may import, besides itself, errors, dims and printable.
ROOM_MAY_IMPORT = {
    "printable": [],
    "errors": [],
    "dims": [],
    "memory": [],
    "address_space": [],
    "terminal": [],
    "failures": [],
    "description": [],
    "transcription": ["failures", "runtime", "terminal"],
    "runtime": ["artifact", "generation_schema", "held", "manifest", "memory", "stored_tensors", "strict_json"],
    "checkpoints": [
        "generation_schema",
        "held",
        "runtime.languages",
        "runtime.tokenizer_json",
        "runtime.tokens",
        "strict_json",
    ],
    "generation_schema": [],
    "ir": [],
    "walker": ["ir", "converters"],
    "converters": ["ir", "walker"],
    "passes": ["ir"],
    "source": [],
    "emit": ["ir", "source", "templates"],
    "cpu": [],
    "strict_json": [],
    "held": [],
    "listing": ["held"],
    "manifest": ["held", "ir", "listing", "strict_json"],
    "stored_tensors": ["held", "strict_json"],
    "contents": [
        "generation_schema",
        "held",
        "ir",
        "listing",
        "manifest",
        "runtime.tokens",
        "stored_tensors",
        "strict_json",
    ],
    "artifact": ["contents", "cpu", "held", "ir", "listing", "manifest", "runtime.tokens"],
    "partials": [],
    "publication": ["artifact", "listing", "manifest", "partials"],
    "cache": ["held", "partials", "strict_json"],
    "target": ["artifact", "cpu"],
    "compile_graph": ["source"],
    "build": ["artifact", "cache", "held", "kernels", "manifest", "source", "target"],
    "parity": [
        "artifact",
        "build",
        "checkpoints",
        "converters",
        "cpu",
        "held",
        "ir",
        "runtime",
        "samples",
        "stored_tensors",
        "strict_json",
        "target",
        "templates",
        "walker",
    ],
    "rebuild": ["artifact", "build", "held", "publication", "target"],
    "kernels": [],
    "samples": [],
    "templates": [],
}

HEAVY = ["torch", "transformers", "jinja2", "max", "huggingface_hub", "whisper"]
RUN_WITHOUT_TORCH = [
    "runtime.*",
    "artifact",
    "cache",
    "publication",
    "build",
    "rebuild",
    "compile_graph",
    "comparison",
    "parity.against",
    "parity.replay",
    "cli",
    "transcription",
]


@cache
def sources() -> dict[str, Path]:
    """Path of every module by its name below whisper2max; whisper2max itself is ""."""
    found = {}
    for package, folder in ROOMS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [*package.split("."), *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[1:-1] if parts[-1] == "__init__" else parts[1:])
            found[name] = path
    return found


def imports(module: str, at_import: bool = False) -> Iterator[str]:
    """Full names of what a module imports; only what importing it loads, if `at_import`.

    `if TYPE_CHECKING` is skipped. `from a import b` gives a, and a.b where that is a module of ours.
    """

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            yield node.module
            for alias in node.names:
                if f"{node.module}.{alias.name}".removeprefix("whisper2max.") in sources():
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                yield from visit(child)
        elif not (at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    return visit(ast.parse(sources()[module].read_text()))


def ours(names: Iterator[str]) -> set[str]:
    return {name.removeprefix("whisper2max").lstrip(".") for name in names if name.split(".")[0] == "whisper2max"}


def external(names: Iterator[str]) -> set[str]:
    top = {name.split(".")[0] for name in names}
    return top - sys.stdlib_module_names - {"whisper2max"}


def matches(module: str, patterns: list[str]) -> bool:
    """Whether a pattern names the module; "a.*" stands for the package a too."""
    return any(fnmatch.fnmatch(module, p) or p == f"{module}.*" for p in patterns)


def loaded_by(module: str) -> dict[str, str]:
    """Every module of ours that importing `module` loads, with the module that asks for it."""
    reached, waiting = {module: module}, [module]
    while waiting:
        asking = waiting.pop()
        for name in ours(imports(asking, at_import=True)):
            parents = [name.rsplit(".", depth)[0] for depth in range(name.count(".") + 1)]
            for each in parents:
                if each in sources() and each not in reached:
                    reached[each] = asking
                    waiting.append(each)
    return reached


@pytest.mark.parametrize("module", sources())
def test_packages_are_imported_where_they_belong(module: str):
    found = external(imports(module))
    assert found <= MAY_IMPORT.keys(), "name the package in MAY_IMPORT and in pyproject.toml"
    assert sorted(package for package in found if not matches(module, MAY_IMPORT[package])) == []


@pytest.mark.parametrize("module", [m for m in sources() if m.split(".")[0] in ROOM_MAY_IMPORT])
def test_rooms_import_in_one_direction(module: str):
    room = module.split(".")[0]
    allowed = {room, "errors", "dims", "printable", *ROOM_MAY_IMPORT[room]}
    wrong = {name for name in ours(imports(module)) if name and not {name, name.split(".")[0]} & allowed}
    # A name such as runtime.tokens admits that module; its package comes with it.
    wrong -= {name.rsplit(".", 1)[0] for name in allowed if "." in name}
    assert sorted(wrong) == []


@pytest.mark.parametrize("module", [m for m in sources() if matches(m, RUN_WITHOUT_TORCH)])
def test_the_runtime_loads_nothing_of_the_converter(module: str):
    converter = {"torch", "transformers", "jinja2", "huggingface_hub", "whisper"}
    chains = {
        f"{reached} (imported by {asking})": sorted(found)
        for reached, asking in loaded_by(module).items()
        if (found := external(imports(reached, at_import=True)) & converter)
    }
    assert chains == {}


@pytest.mark.parametrize("module", ["", "artifact", "cache", "cli", "errors", "dims", "failures", "terminal"])
def test_light_modules_load_nothing_heavy(module: str):
    for reached in loaded_by(module):
        assert external(imports(reached, at_import=True)) & set(HEAVY) == set(), reached


def test_nothing_imports_the_command_line():
    assert [module for module in sources() if module != "cli" and "cli" in ours(imports(module))] == []
