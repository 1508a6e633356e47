"""Wrong programs: every mutation of the generated graph or of a kernel is caught, and its first row is named."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from small_models import VARIANTS, transformers_module

import whisper2max
from whisper2max.artifact.listing import scan
from whisper2max.build.compiler import Source, compile_tapped
from whisper2max.build.target import resolve
from whisper2max.checkpoints import from_module
from whisper2max.conversion import versions
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFiles
from whisper2max.graph.walker import walk
from whisper2max.parity import tapped
from whisper2max.parity.inputs import load_inputs
from whisper2max.parity.proof import prove
from whisper2max.parity.taps import graph_taps

# name: (graph, file, text, replacement, first row that must be named)
MUTATIONS = {
    "two layers swapped": (
        "encoder",
        "model.py",
        'x = encoder_block(x, f"encoder.blocks.{layer}")',
        'x = encoder_block(x, f"encoder.blocks.{N_AUDIO_LAYER - 1 - layer}")',
        "encoder.blocks.0.attn_ln",
    ),
    "a dropped scale": (
        "encoder",
        "kernels/attention.mojo",
        "comptime scale = Float32(LOG2_E * Float64(head_dim) ** -0.5)",
        "comptime scale = Float32(LOG2_E)",
        "encoder.blocks.0.attn.qkv_attention",
    ),
    "a global wrong epsilon": (
        "encoder",
        "model.py",
        "ops.constant([eps], DType.float32, CPU)",
        "ops.constant([10 * eps], DType.float32, CPU)",
        "encoder.blocks.0.attn_ln",
    ),
    "tanh instead of erf": (
        "encoder",
        "model.py",
        'ops.gelu(h, "none")',
        'ops.gelu(h, "tanh")',
        "encoder.blocks.0.mlp.1",
    ),
    "the stem one frame late": (
        "encoder",
        "kernels/conv1d.mojo",
        "t -= padding",
        "t -= padding + 1",
        "encoder.conv1",
    ),
    "no causal mask": (
        "prompt",
        "kernels/cached_attention.mojo",
        "            position + t + 1,",
        "            position + cache.length,",
        "decoder.blocks.0.attn.qkv_attention",
    ),
    "the cache written one position late": (
        "step",
        "kernels/cached_attention.mojo",
        "var cached = prefix + (position + t) * cache.state",
        "var cached = prefix + min(position + t + 1, cache.context - 1) * cache.state",
        "decoder.blocks.0.attn.qkv_attention",
    ),
    "a bias of K": (
        "prompt",
        "model.py",
        'f"{name}.key", N_TEXT_STATE, N_TEXT_STATE, bias=False)\n    value',
        'f"{name}.key", N_TEXT_STATE, N_TEXT_STATE, bias=False)\n'
        '    key = tap(f"{name}.key", key + 0.01)\n    value',
        "decoder.blocks.0.attn.key",
    ),
}


@pytest.fixture(scope="module")
def module():
    return transformers_module(VARIANTS["multilingual_80_mels"], seed=3)


@pytest.fixture(scope="module")
def artifact(module, tmp_path_factory):
    return whisper2max.convert(module=module, output=tmp_path_factory.mktemp("small") / "artifact")


# One for every graph; the others take a minute of compilation each.
FEW = ("two layers swapped", "no causal mask", "the cache written one position late")
CASES = [
    pytest.param(mutation, marks=() if mutation in FEW else pytest.mark.exhaustive) for mutation in MUTATIONS
]


@pytest.fixture(scope="module")
def mutated(request, artifact, tmp_path_factory):
    """A directory for every mutation that is asked for, its graph compiled, as many at a time as there are cores."""
    asked = {item.callspec.params["mutation"] for item in request.session.items if item.module is request.module}
    directories = {}
    for mutation in asked:
        _, file, text, replacement, _ = MUTATIONS[mutation]
        directory = directories[mutation] = tmp_path_factory.mktemp("mutated") / "artifact"
        shutil.copytree(artifact.path, directory)
        source = (directory / file).read_text()
        assert source.count(text) == 1, mutation
        (directory / file).write_text(source.replace(text, replacement))
    paths = graph_taps(artifact.spec)

    def compile_one(mutation):
        graph = MUTATIONS[mutation][0]
        directory = directories[mutation]
        source = Source.of(HeldFiles(directory, scan(directory)[0], ArtifactError))
        return compile_tapped(source, {graph: paths[graph]}, resolve("native"), print)[graph]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(directories, pool.map(compile_one, directories), strict=True))


@pytest.mark.parametrize("mutation", CASES)
def test_a_wrong_program_is_caught_and_its_first_row_named(artifact, module, mutated, monkeypatch, mutation):
    graph, *_, expected = MUTATIONS[mutation]

    def one_mutated(*arguments):
        return {**compile_tapped(*arguments), graph: mutated[mutation]}

    monkeypatch.setattr(tapped, "compile_tapped", one_mutated)
    source = from_module(module)
    walked = walk(source.module, source.dims)
    report = prove(artifact.files, source, walked, "float32", resolve("native"), load_inputs([]), versions(), print)
    assert not report.passed
    print(f"{mutation}: {report.explanation()}")
    assert report.first_divergent.path == expected
    # rounding comes to less than half of a limit; tanh for erf is the mildest, six limits in a network this small
    assert report.first_divergent.of_limit > 4
