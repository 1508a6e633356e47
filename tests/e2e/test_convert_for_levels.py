"""Graphs for another CPU level than this machine's: generated for it, proven like all others, and marked."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from max.driver import Buffer
from max.dtype import DType

import whisper2max
from whisper2max.artifact.artifact import open_artifact
from whisper2max.artifact.manifest import GRAPHS
from whisper2max.build.compiler import Source, compile_tapped
from whisper2max.build.target import resolve
from whisper2max.core.errors import UsageError
from whisper2max.graph.passes import panels
from whisper2max.parity import graphs
from whisper2max.runtime.graphs import load_graph
from whisper2max.runtime.threads import shared_session

COMMAND = str(Path(sys.executable).with_name("whisper2max"))
EXHAUSTIVE = [pytest.mark.slow, pytest.mark.exhaustive]
LEVELS = [
    "x86-64-v3",
    pytest.param("x86-64-v2", marks=pytest.mark.slow),
    pytest.param("x86-64-v4", marks=EXHAUSTIVE),
]
CONVERTED_LEVELS = [
    pytest.param("x86-64-v3", marks=pytest.mark.slow),
    *(pytest.param(f"x86-64-{level}", marks=EXHAUSTIVE) for level in ("v2", "v4")),
]

# A graph of one op that says what its compiler was allowed to use.
MODEL = """
from max.dtype import DType
from max.graph import DeviceRef, Graph, TensorType, ops


def build(kernels, taps=()):
    answers = TensorType(DType.int32, [3], DeviceRef.CPU())
    with Graph("answers", input_types=[answers], custom_extensions=[kernels]) as graph:
        values = [graph.inputs[0].tensor]
        graph.output(ops.custom("answers", device=DeviceRef.CPU(), values=values, out_types=[answers])[0].tensor)
    return graph


BUILDERS = {"answers": build}
"""
KERNEL = """
import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.sys import CompilationTarget


@extensibility.register("answers")
struct Answers:
    @staticmethod
    def execute[
        target: StaticString
    ](
        output: OutputTensor[dtype=DType.int32, rank=1, ...],
        unused: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var data = output.unsafe_ptr()
        comptime avx2 = CompilationTarget.has_avx2()
        comptime avx512f = CompilationTarget.has_avx512f()
        comptime vnni = CompilationTarget.has_vnni()
        data.unsafe_store(Int32(avx2))
        data.unsafe_offset(1).unsafe_store(Int32(avx512f))
        data.unsafe_offset(2).unsafe_store(Int32(vnni))
"""
# int8 and bfloat16 products, whose instructions depend on the level most
PRODUCTS = """
from max.dtype import DType
from max.graph import DeviceRef, Graph, TensorType, ops

CPU = DeviceRef.CPU()


def build(kernels, taps=()):
    x, y = (TensorType(DType.float32, [1, "rows", n], CPU) for n in (64, 96))
    weights = TensorType(DType.int8, [3, 16, 32, 4], CPU), TensorType(DType.bfloat16, [3, 32, 32, 2], CPU)
    vectors = TensorType(DType.float32, [96], CPU), TensorType(DType.int32, [96], CPU)
    with Graph("products", input_types=[x, *weights, *vectors], custom_extensions=[kernels]) as graph:
        x, int8, bfloat16, vector, sums = (value.tensor for value in graph.inputs)
        calls = [[x, weight, vector, sums, vector] for weight in (int8, bfloat16)]
        how = {"device": CPU, "out_types": [y], "parameters": {"activation": "none"}}
        graph.output(*(ops.custom("whisper2max.linear", values=values, **how)[0].tensor for values in calls))
    return graph


BUILDERS = {"products": build}
"""
ANSWERS = {"x86-64-v2": [0, 0, 0], "x86-64-v3": [1, 0, 0], "x86-64-v4": [1, 1, 0]}


def runnable(level):
    """The target, where this machine can run it."""
    target = resolve(level)
    if missing := target.missing_features():
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    return target


@pytest.fixture(scope="module")
def convert_for(tmp_path_factory, small_module):
    """Converts the small module for a level, once."""
    made = {}

    def convert(level):
        if level not in made:
            output = tmp_path_factory.mktemp(level) / "artifact"
            made[level] = whisper2max.convert(module=small_module, output=output, target=runnable(level).name)
        return made[level]

    return convert


@pytest.mark.parametrize("level", LEVELS)
def test_kernels_are_generated_for_the_level(level):
    target = runnable(level)
    source = Source(MODEL.encode(), {"__init__.mojo": KERNEL.encode()})
    mef = compile_tapped(source, {"answers": ()}, target, print)["answers"]
    (answers,) = load_graph(shared_session(), mef, {}).execute(Buffer.from_numpy(np.full(3, 9, np.int32)))
    assert answers.to_numpy().tolist() == ANSWERS[level]


@pytest.mark.parametrize("level", LEVELS)
def test_products_are_the_same_at_every_level(level):
    source = Source.generated(PRODUCTS)
    random = np.random.default_rng(0)
    steps = random.integers(-127, 128, (96, 64), np.int8)
    bits = (random.standard_normal((3, 32, 32, 2), np.float32).view(np.uint32) >> 16).astype(np.uint16)
    inputs = [
        Buffer.from_numpy(random.standard_normal((1, 13, 64), np.float32)),
        Buffer.from_numpy(panels(torch.from_numpy(steps), "w").numpy()),
        Buffer.from_numpy(bits).view(DType.bfloat16, bits.shape),
        Buffer.from_numpy(random.uniform(0.5, 1, 96).astype(np.float32)),
        Buffer.from_numpy(steps.sum(1, dtype=np.int32)),
    ]

    def products(target):
        mef = compile_tapped(source, {"products": ()}, target, print)["products"]
        return [each.to_numpy() for each in load_graph(shared_session(), mef, {}).execute(*inputs)]

    for got, native in zip(products(runnable(level)), products(resolve("native")), strict=True):
        np.testing.assert_allclose(got, native, rtol=0, atol=1e-5 * np.abs(native).max())


@pytest.mark.parametrize("level", CONVERTED_LEVELS)
def test_an_artifact_for_a_level_is_proven_and_says_so(convert_for, small_artifact, level):
    artifact = convert_for(level)
    assert artifact.verified and artifact.target == level
    assert artifact.manifest["target"] == resolve(level).to_dict()
    assert json.loads(artifact.file("parity.json").read(1 << 24))["passed"]
    ours, native = artifact.manifest["files"], small_artifact.manifest["files"]
    for name in ("model.py", "weights.safetensors", "graph.txt"):
        assert ours[name] == native[name]
    for name in GRAPHS:
        assert ours[f"{name}.mef"] != native[f"{name}.mef"]


@pytest.mark.slow
def test_compile_and_verify_for_a_level(convert_for, small_artifact, small_module, tmp_path, monkeypatch):
    convert_for("x86-64-v3")  # its graphs are kept now
    path = whisper2max.convert(module=small_module, output=tmp_path / "artifact").path
    command = [COMMAND, "compile", str(path), "--target", "x86-64-v3"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "rebuilt for x86-64-v3, not verified" in result.stderr, result.stderr

    asked = []

    def compile_noted(source, taps, target, say):
        asked.append(target)
        return compile_tapped(source, taps, target, say)

    monkeypatch.setattr(graphs, "compile_tapped", compile_noted)
    assert whisper2max.verify(path, module=small_module).passed
    assert asked == [resolve("x86-64-v3")]
    verified = open_artifact(path)
    assert verified.verified and verified.target == "x86-64-v3"


def test_a_level_that_cannot_run_here_is_refused_before_anything_else(small_module, tmp_path, monkeypatch):
    monkeypatch.setattr("whisper2max.build.target.platform.machine", lambda: "x86_64")
    monkeypatch.setattr("whisper2max.build.target.cpu_features", lambda: frozenset({"avx", "avx2"}))
    with pytest.raises(UsageError, match="x86-64-v3 needs CPU features that this machine lacks: abm, .*nothing is pub"):
        whisper2max.convert(module=small_module, output=tmp_path / "made", target="x86-64-v3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["convert", "--size", "base"], ["compile", "artifacts/none"]])
def test_the_command_refuses_an_unknown_target(command):
    result = subprocess.run([COMMAND, *command, "--target", "sm_12"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    expected = "error: target 'sm_12' is not offered; choose one of native, x86-64-v2, x86-64-v3"
    assert result.stderr.startswith(expected)
