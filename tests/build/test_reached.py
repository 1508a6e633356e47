"""What a graph is made of: all that its builder reaches, and the rest left out."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from small_models import VARIANTS, packed_spec

from whisper2max.artifact.manifest import GRAPHS
from whisper2max.build.compiler import KERNELS, Source
from whisper2max.build.reached import kernels_of, reached
from whisper2max.build.target import resolve
from whisper2max.graph.emit import emit

MODEL = b'''"""Two graphs."""

import os

WIDTH = 4
HEIGHT = WIDTH + 1
DEPTH: int = 2
LEFT, RIGHT = WIDTH, HEIGHT
os.environ.setdefault("MODE", "quick")


def called(name, x):
    """Calls "norm" by name."""
    return f"whisper2max.{name}", x, WIDTH


@os.fspath
def decorated(x):
    return called("linear", x)


class Network:
    size = HEIGHT


def build_first():
    return decorated(Network)


def build_second(depth=DEPTH):
    return called("whisper2max.add", depth)


BUILDERS = {
    "first": build_first,
    "second": build_second,
}
'''
FILES = {
    "__init__.mojo": b'"""Ops."""\n\nfrom .linear import Product\nfrom .norm import Norm\nfrom .sums import Add, Sum\n',
    "linear.mojo": b'from .tile import (\n    a,\n)\n@extensibility.register("whisper2max.linear")\nstruct Product:\n',
    "norm.mojo": b'from .tile import a\n@extensibility.register("whisper2max.norm")\nstruct Norm:\n',
    "share.mojo": b"struct Threads:\n",
    "sums.mojo": b'@extensibility.register("whisper2max.add")\n@extensibility.register("whisper2max.total")\n',
    "tile.mojo": b"from .share import Threads\n",
}


def statements(graph):
    """First lines of what is left of MODEL."""
    source, _ = reached(MODEL, FILES, graph)
    return [line for line in source.decode().splitlines() if line and not line.startswith((" ", "#"))]


def test_statements_that_a_builder_reaches_are_kept_and_imports_and_effects_with_them():
    common = ["import os", "WIDTH = 4", 'os.environ.setdefault("MODE", "quick")', "def called(name, x):"]
    assert set(statements("second")) == {
        *common,
        "DEPTH: int = 2",
        "def build_second(depth=DEPTH):",
        "BUILDERS = {'second': build_second}",
    }
    first = ["HEIGHT = WIDTH + 1", "@os.fspath", "def decorated(x):", "class Network:", "def build_first():"]
    assert set(statements("first")) == {*common, *first, "BUILDERS = {'first': build_first}"}


def test_lines_keep_their_numbers():
    lines = MODEL.decode().splitlines()
    kept = reached(MODEL, FILES, "second")[0].decode().splitlines()
    assert all(line in ("", lines[number]) for number, line in enumerate(kept) if "BUILDERS" not in line)
    assert kept.index("BUILDERS = {'second': build_second}") == lines.index("BUILDERS = {")


def test_kernels_named_in_what_is_kept_come_with_all_that_they_import():
    _, first = reached(MODEL, FILES, "first")
    assert first.keys() == {"__init__.mojo", "linear.mojo", "share.mojo", "tile.mojo"}
    assert first["__init__.mojo"] == b'"""Ops."""\n\nfrom .linear import Product\n'
    _, second = reached(MODEL, FILES, "second")
    assert second.keys() == {"__init__.mojo", "sums.mojo"}
    assert second["__init__.mojo"] == b'"""Ops."""\n\nfrom .sums import Add, Sum\n'
    assert second["sums.mojo"] == FILES["sums.mojo"]


def test_what_else_the_package_imports_is_reached():
    package = FILES["__init__.mojo"] + b"from .extra import (\n    Extra,\n)\n"
    files = kernels_of({**FILES, "__init__.mojo": package, "extra.mojo": b"from .share import Threads\n"}, ["add"])
    assert files.keys() == {"__init__.mojo", "extra.mojo", "share.mojo", "sums.mojo"}
    assert files["__init__.mojo"].endswith(b"from .sums import Add, Sum\nfrom .extra import (\n    Extra,\n)\n")


@pytest.mark.parametrize(
    "model",
    [
        b"BUILDERS = {}\n",
        b"BUILDERS = dict(first=build)\n",
        b"BUILDERS = {'first': lambda: 0}\n",
        b"BUILDERS = {'first': build}\nBUILDERS = {'first': other}\n",
        b"def build(:\n",
        b"\x00",
    ],
)
def test_where_it_cannot_be_told_all_is_kept(model):
    assert reached(model, FILES, "first") == (model, FILES)


def generated(variant, dtype):
    return Source.generated(emit(packed_spec(VARIANTS[variant], dtype)))


def test_graphs_of_generated_source_are_told_apart():
    """A change of the kernel that only the features use, or of the convolution, compiles no graph of the decoder."""
    source = generated("multilingual_80_mels", "int8")
    assert source.kernels.keys() < {path.name for path in KERNELS.glob("*.mojo")}, "those of other targets stay behind"
    using = {
        file: {name for name in GRAPHS if file in source.reached(name).kernels}
        for file in source.kernels
    }
    assert using["log_mel.mojo"] == {"features"}
    assert using["conv1d.mojo"] == {"encoder"}
    assert using["step.mojo"] == {"step"}
    assert using["__init__.mojo"] == using["share.mojo"] == set(GRAPHS)
    assert [file for file, graphs in using.items() if not graphs] == []


def test_graphs_that_dtypes_and_sizes_share_have_one_key():
    variants = ["multilingual_80_mels", "english_80_mels", "large_v3_128_mels"]
    wanted = [*((variant, "float32") for variant in variants), (variants[0], "bfloat16"), (variants[0], "int8")]
    target = resolve("native")
    keys = {
        graph: {each: generated(*each).reached(graph).key(target) for each in wanted}
        for graph in ("features", "encoder")
    }
    assert len(set(keys["encoder"].values())) == len(wanted)
    assert len(set(keys["features"].values())) == 2
    (other,) = [each for each, key in keys["features"].items() if key != keys["features"][wanted[0]]]
    assert VARIANTS[other[0]].n_mels == 128


def test_several_threads_look_at_once():
    source, graphs = generated("multilingual_80_mels", "int8"), [*GRAPHS] * 16
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(source.reached, graphs))
    finally:
        sys.setswitchinterval(interval)
    assert [each.model_py for each in found] == [source.reached(graph).model_py for graph in graphs]
