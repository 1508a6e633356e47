"""Imports run in one direction, and heavy packages stay where they belong.

Two tables state the architecture: who may import which package, and which rooms. When a test here fails, either the
import is in the wrong place, or the architecture changed: then change the table, and say why in the commit.
"""

import ast
import fnmatch
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "whisper2max": ROOT / "compiler" / "whisper2max",
    "whisper2max.kernels": ROOT / "kernels",
    "whisper2max.runtime": ROOT / "runtime",
    "whisper2max.samples": ROOT / "samples",
    "whisper2max.templates": ROOT / "templates",
}

# Which modules (below whisper2max) may import a package that is neither ours nor Python's.
MAY_IMPORT = {
    "av": ["runtime.audio", "samples.make_sample"],
    "huggingface_hub": ["checkpoints.hub"],
    "jinja2": ["graph.emit", "parity.html"],
    "max": ["build.compile_graph", "parity.*", "runtime.*"],
    "numpy": ["checkpoints.*", "parity.*", "runtime.*"],
    "rich": ["cli.parity_table", "cli.terminal"],
    "safetensors": ["conversion", "parity.kept"],
    "tokenizers": ["runtime.tokens"],
    "torch": [
        "checkpoints.*",
        "conversion",
        "graph.converters.registry",
        "graph.passes",
        "graph.walker",
        "parity.reference",
        "verification",
    ],
    "transformers": ["checkpoints.*", "parity.reference"],
    "typer": ["cli.commands", "cli.main"],
}

# Which rooms, or single modules of them, a room may import besides itself. A room is a folder or a module at the top.
ROOM_MAY_IMPORT = {
    "core": [],
    "kernels": [],
    "samples": [],
    "templates": [],
    "graph": ["core", "kernels.operands", "templates"],
    "artifact": ["core", "graph.ir", "runtime.tokens"],
    "build": ["artifact", "core", "graph.source", "kernels"],
    "runtime": ["artifact", "core"],
    "checkpoints": [
        "artifact.generation_schema",
        "core",
        "runtime.languages",
        "runtime.tokenizer_json",
        "runtime.tokens",
    ],
    "parity": ["artifact", "build", "checkpoints", "core", "graph", "runtime", "samples", "templates"],
    "conversion": ["artifact", "build", "checkpoints", "core", "graph", "parity"],
    "verification": ["artifact", "build", "checkpoints", "conversion", "core", "graph", "parity"],
    "cli": ["artifact", "build", "checkpoints", "conversion", "core", "graph", "parity", "runtime", "verification"],
}

HEAVY = {"torch", "transformers", "jinja2", "max", "huggingface_hub", "whisper"}
CONVERTER_ONLY = HEAVY - {"max"}
RUN_WITHOUT_TORCH = ["runtime.*", "artifact.*", "build.*", "cli.*", "core.*", "parity.comparison"]
LIGHT = ["", "artifact.*", "build.cache", "cli.*", "core.*"]


@cache
def sources() -> dict[str, Path]:
    """Path of every module by its name below whisper2max; whisper2max itself is ""."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [*package.split("."), *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[1:-1] if parts[-1] == "__init__" else parts[1:])
            found[name] = path
    return found


def imports(module: str, at_import: bool = False, for_types: bool = False) -> Iterator[str]:
    """Full names of what a module imports; of a package, the modules in it that are named, else the package itself.

    Args:
        module: its name below whisper2max.
        at_import: only what importing the module loads, not what its functions import.
        for_types: also what only a type checker imports.
    """

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from {name if name.removeprefix("whisper2max.") in sources() else node.module for name in names}
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in [*node.orelse, *(node.body if for_types else [])]:
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


def room(module: str) -> str:
    return module.split(".")[0]


def packages(module: str) -> set[str]:
    """Packages of ours around a module, which importing it loads first; whisper2max itself is left out."""
    return {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}


def loaded_by(module: str) -> dict[str, str]:
    """Every module of ours that importing `module` loads, with the module that asks for it."""
    reached, waiting = {module: module}, [module]
    while waiting:
        asking = waiting.pop()
        asked = ours(imports(asking, at_import=True))
        for name in asked.union(packages(asking), *map(packages, asked)):
            if name not in reached:
                reached[name] = asking
                waiting.append(name)
    return reached


@pytest.mark.parametrize("module", sources())
def test_packages_are_imported_where_they_belong(module: str):
    found = external(imports(module))
    assert found <= MAY_IMPORT.keys(), "name the package in MAY_IMPORT and in pyproject.toml"
    assert sorted(package for package in found if not matches(module, MAY_IMPORT[package])) == []


def test_no_package_is_admitted_where_nobody_imports_it():
    users = [(package, module) for module in sources() for package in external(imports(module))]
    assert [
        f"{package} in {pattern}"
        for package, patterns in MAY_IMPORT.items()
        for pattern in patterns
        if not any(package == used and matches(module, [pattern]) for used, module in users)
    ] == []


def test_every_room_is_in_the_table_and_the_table_names_no_other():
    assert {room(module) for module in sources() if module} == ROOM_MAY_IMPORT.keys()


@pytest.mark.parametrize("module", [module for module in sources() if module])
def test_rooms_import_in_one_direction(module: str):
    allowed = {room(module), *ROOM_MAY_IMPORT[room(module)]}
    found = ours(imports(module, for_types=True))
    assert sorted(name for name in found if name and not {name, room(name)} & allowed) == []


def test_no_room_is_admitted_where_nobody_imports_it():
    found = {
        (room(module), name)
        for module in sources()
        for imported in ours(imports(module, for_types=True))
        for name in (imported, room(imported))
    }
    assert [
        f"{name} in {asking}"
        for asking, allowed in ROOM_MAY_IMPORT.items()
        for name in allowed
        if (asking, name) not in found
    ] == []


def test_no_imports_run_in_a_circle():
    """What only annotations need counts as well, but for packages, which name what is inside them."""
    graph = {
        module: ours(imports(module, for_types=path.name != "__init__.py")) - {module}
        for module, path in sources().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


@pytest.mark.parametrize("module", [m for m in sources() if matches(m, RUN_WITHOUT_TORCH)])
def test_the_runtime_loads_nothing_of_the_converter(module: str):
    chains = {
        f"{reached} (imported by {asking})": sorted(found)
        for reached, asking in loaded_by(module).items()
        if (found := external(imports(reached, at_import=True)) & CONVERTER_ONLY)
    }
    assert chains == {}


@pytest.mark.parametrize("module", [m for m in sources() if matches(m, LIGHT)])
def test_light_modules_load_nothing_heavy(module: str):
    for reached in loaded_by(module):
        assert external(imports(reached, at_import=True)) & HEAVY == set(), reached
