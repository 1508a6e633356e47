"""What one graph is made of: the statements of model.py and the kernels that its builder reaches.

The compiler is given this and nothing else, and the hash of this is the graph's key in the cache. So the key cannot
miss anything that decides what the graph computes: what is not part of it is not there to be compiled. A graph that
two dtypes or two sizes share, such as the features, is compiled once for both.

    builder   -> every statement at the top of model.py that binds a name used in a reached statement
    statement -> every kernel whose registered name is a string in a reached statement
    kernel    -> every file that it imports with `from .file import`, and the lines of __init__.mojo about these

Names are compared without looking at scopes, which can only reach too much.
"""

import ast
import re
import threading
from collections.abc import Iterable, Mapping

# Python 3.11 counts the depth of its trees for all threads together, and raises SystemError where two parse at once.
_PARSER = threading.Lock()
_PREFIX = "whisper2max."  # of names under which the kernels are registered
_PACKAGE = "__init__.mojo"
_REGISTERED = re.compile(rb'extensibility\.register\("([^"]+)"\)')
_IMPORTED = re.compile(rb"^[ \t]*from \.(\w+) import\b", re.MULTILINE)
_PACKAGE_IMPORT = re.compile(rb"^from \.(\w+) import [^(\n]*(?:\n|\Z)", re.MULTILINE)


def reached(model_py: bytes, kernels: Mapping[str, bytes], graph: str) -> tuple[bytes, dict[str, bytes]]:
    """The part of generated source and kernels that one graph needs.

    Args:
        model_py: generated source that ends in a dict `BUILDERS` of functions by graph name.
        kernels: Mojo sources by file name.
        graph: the graph's name.

    Returns:
        model.py with every other statement left blank, so that the lines keep their numbers, and with this builder
        alone in `BUILDERS`; the kernels by file name. All of both where `BUILDERS` is not written as such a dict.
    """
    try:
        statements = _parsed(model_py)
    except (SyntaxError, ValueError):
        return model_py, dict(kernels)
    tables = [each for each in statements if isinstance(each, ast.Assign) and _binds(each) == {"BUILDERS"}]
    builder = _entry(tables[0], graph) if len(tables) == 1 else None
    if builder is None:
        return model_py, dict(kernels)
    kept = _statements([each for each in statements if each not in tables], builder)
    lines = model_py.decode("utf-8").splitlines(keepends=True)
    numbers = {number for each in kept for number in range(_first_line(each), each.end_lineno + 1)}
    source = [line if number in numbers else "\n" for number, line in enumerate(lines, 1)]
    source[tables[0].lineno - 1] = f"BUILDERS = {{{graph!r}: {builder}}}\n"
    return "".join(source).rstrip("\n").encode("utf-8") + b"\n", kernels_of(kernels, _texts(kept))


def texts_of(model_py: bytes) -> set[object]:
    """Every constant in generated source, the names of kernels among them."""
    return _texts(_parsed(model_py))


def _texts(statements: Iterable[ast.stmt]) -> set[object]:
    return {node.value for each in statements for node in ast.walk(each) if isinstance(node, ast.Constant)}


def _parsed(source: str | bytes) -> list[ast.stmt]:
    with _PARSER:
        return ast.parse(source).body


def kernels_of(kernels: Mapping[str, bytes], names: Iterable[object]) -> dict[str, bytes]:
    """The files that register these kernels, and all that those import.

    Args:
        kernels: Mojo sources by file name.
        names: registered names, with or without "whisper2max."; what is none of them is passed over.

    Returns:
        Content by file name. Of `__init__.mojo`, imports of other files are left out.
    """
    wanted = {form for name in names if isinstance(name, str) for form in (name, f"{_PREFIX}{name}")}
    registering = [
        file
        for file, text in kernels.items()
        if wanted & {name.decode() for name in _REGISTERED.findall(text)} and file != _PACKAGE
    ]
    files = _with_imports(kernels, registering)
    if _PACKAGE not in kernels:
        return files

    def of_reached(line: re.Match[bytes]) -> bytes:
        return line[0] if f"{line[1].decode()}.mojo" in files else b""

    package = _PACKAGE_IMPORT.sub(of_reached, kernels[_PACKAGE])
    return {**_with_imports({**kernels, _PACKAGE: package}, [_PACKAGE]), **files}


def _with_imports(kernels: Mapping[str, bytes], files: Iterable[str]) -> dict[str, bytes]:
    """The files, and all that they import, directly or not."""
    found, waiting = {}, list(files)
    while waiting:
        file = waiting.pop()
        if file in kernels and file not in found:
            found[file] = kernels[file]
            waiting += [f"{name.decode()}.mojo" for name in _IMPORTED.findall(kernels[file])]
    return found


def _entry(table: ast.Assign, graph: str) -> str | None:
    """The name of the function that `BUILDERS` has for a graph; None if it has none, or another expression."""
    if isinstance(table.value, ast.Dict):
        for key, value in zip(table.value.keys, table.value.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == graph and isinstance(value, ast.Name):
                return value.id
    return None


def _statements(statements: list[ast.stmt], builder: str) -> list[ast.stmt]:
    """The statements that the builder reaches; imports, and all that does more than to bind a name, belong to it."""
    statements = [each for each in statements if not _is_text(each)]
    kept = [each for each in statements if not _binds(each)]
    waiting = [*kept, *_parsed(builder)]
    while waiting:
        names = {node.id for node in ast.walk(waiting.pop()) if isinstance(node, ast.Name)}
        more = [each for each in statements if each not in kept and _binds(each) & names]
        kept += more
        waiting += more
    return kept


def _is_text(statement: ast.stmt) -> bool:
    """Whether it is a docstring."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _binds(statement: ast.stmt) -> set[str]:
    """The names that a function, a class or an assignment to plain names binds; none for other statements."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return set()
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    targets = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return {each.id for each in targets} if all(isinstance(each, ast.Name) for each in targets) else set()


def _first_line(statement: ast.stmt) -> int:
    """Where it begins, decorators included."""
    decorators = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])
