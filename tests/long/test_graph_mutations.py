"""Wrong programs that ship: every mutation of generated graph or kernel is caught, and its first row named."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from small_models import VARIANTS, packed_spec, transformers_module

import whisper2max
from whisper2max.artifact.listing import scan
from whisper2max.build.compiler import Source, compile_tapped
from whisper2max.build.target import resolve
from whisper2max.checkpoints import from_module
from whisper2max.conversion import versions
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFiles
from whisper2max.graph.emit import emit
from whisper2max.graph.walker import walk
from whisper2max.parity import graphs
from whisper2max.parity.inputs import load_inputs
from whisper2max.parity.proof import prove
from whisper2max.parity.report import ParityReport
from whisper2max.parity.taps import graph_taps

ATTENTION_TO_TOKENS = "decoder.blocks.0.attn.qkv_attention"


@dataclass(frozen=True)
class Mutation:
    """A graph, what is changed in its sources, and the first row that must be named, with words of its place."""

    graph: str
    file: str
    text: str
    replacement: str
    path: str
    place: str
    target: str = "native"


MUTATIONS = {
    "two layers swapped": Mutation(
        "encoder",
        "model.py",
        'x = encoder_block(x, f"encoder.blocks.{layer}")',
        'x = encoder_block(x, f"encoder.blocks.{N_AUDIO_LAYER - 1 - layer}")',
        "encoder.blocks.0.attn_ln",
        "encoder",
    ),
    "a dropped scale": Mutation(
        "encoder",
        "kernels/attention.mojo",
        "comptime scale = Float32(LOG2_E * Float64(head_dim) ** -0.5)",
        "comptime scale = Float32(LOG2_E)",
        "encoder.blocks.0.attn.qkv_attention",
        "encoder",
    ),
    "a global wrong epsilon": Mutation(
        "encoder",
        "model.py",
        "ops.constant([eps], DType.float32, CPU)",
        "ops.constant([10 * eps], DType.float32, CPU)",
        "encoder.blocks.0.attn_ln",
        "encoder",
    ),
    "tanh instead of erf": Mutation(
        "encoder",
        "model.py",
        'linear(x, f"{name}.0", n_state, 4 * n_state, activation="gelu")',
        'linear(x, f"{name}.0", n_state, 4 * n_state, activation="gelu_tanh")',
        "encoder.blocks.0.mlp.1",
        "encoder",
    ),
    "the stem one frame late": Mutation(
        "encoder",
        "kernels/conv1d.mojo",
        "t -= padding",
        "t -= padding + 1",
        "encoder.conv1.gelu",
        "encoder",
    ),
    "audio stored in another layer": Mutation(
        "audio",
        "kernels/audio_pool.mojo",
        "places.append((audio * layers + layer) * heads)",
        "places.append((audio * layers + layers - 1 - layer) * heads)",
        "decoder.blocks.0.cross_attn.qkv_attention",
        "extend of 1 row",
    ),
    "no causal mask": Mutation(
        "extend",
        "kernels/cached_attention.mojo",
        "            position + t + 1,",
        "            position + cache.length,",
        ATTENTION_TO_TOKENS,
        "extend of 1 row",
    ),
    "a bias of K": Mutation(
        "extend",
        "model.py",
        "N_TEXT_STATE, N_TEXT_STATE, has) for child, has in bias.items()\n    )\n    (y,) =",
        "N_TEXT_STATE, N_TEXT_STATE, has) for child, has in bias.items()\n    )\n"
        '    key = tap(f"{name}.key", key + 0.01)\n    (y,) =',
        "decoder.blocks.0.attn.key",
        "extend of 1 row",
    ),
    "the cache written one position late": Mutation(
        "step",
        "kernels/cached_attention.mojo",
        "unsafe_load(), position + t) + column",
        "unsafe_load(), min(position + t + 1, cache.context - 1)) + column",
        ATTENTION_TO_TOKENS,
        "step of 1 row at 4",
    ),
    "the fused step alone": Mutation(
        "step",
        "kernels/step.mojo",
        "packed.take_normalised(x, self.norm, self.query.words)\n\n        def some_queries",
        "packed.take(x, self.query.words)\n\n        def some_queries",
        "decoder.blocks.0.cross_attn.query",
        "step of 1 row at 4",
    ),
    "a step past position 200": Mutation(
        "step",
        "kernels/cached_attention.mojo",
        "            position + t + 1,",
        "            min(position + t + 1, 200),",
        ATTENTION_TO_TOKENS,
        "step of 1 row at 224",
    ),
    # only one row of the reordered step has anything in slot 0
    "a reordered row that reads the wrong slot": Mutation(
        "step",
        "kernels/attend.mojo",
        "values.unsafe_offset(Int(slots.unsafe_offset(first).unsafe_load()) * slot_stride)",
        "values.unsafe_offset(max(Int(slots.unsafe_offset(first).unsafe_load()), 1) * slot_stride)",
        ATTENTION_TO_TOKENS,
        "step of 3 rows, reordered, row 1 at 224",
    ),
    # the network of the GPUs, whose kernels extend and step share
    "max: two layers swapped": Mutation(
        "encoder",
        "model.py",
        'x = encoder_block(x, f"encoder.blocks.{layer}")',
        'x = encoder_block(x, f"encoder.blocks.{N_AUDIO_LAYER - 1 - layer}")',
        "encoder.blocks.0.attn_ln",
        "encoder",
        "max-cpu",
    ),
    "max: a dropped scale": Mutation(
        "encoder",
        "model.py",
        "(query @ ops.transpose(key, 2, 3)) * head_dim**-0.5)",
        "(query @ ops.transpose(key, 2, 3)))",
        "encoder.blocks.0.attn.qkv_attention",
        "encoder",
        "max-cpu",
    ),
    "max: a global wrong epsilon": Mutation(
        "encoder",
        "kernels/row_norm.mojo",
        "comptime epsilon = eps.cast[DType.float32]()",
        "comptime epsilon = 10 * eps.cast[DType.float32]()",
        "encoder.blocks.0.attn_ln",
        "encoder",
        "max-cpu",
    ),
    "max: the stem one frame late": Mutation(
        "encoder",
        "model.py",
        "padded[:, i : i + n * stride]",
        "padded[:, max(i - 1, 0) : max(i - 1, 0) + n * stride]",
        "encoder.conv1.gelu",
        "encoder",
        "max-cpu",
    ),
    "max: audio stored in another layer": Mutation(
        "audio",
        "model.py",
        'place, parameters = Graph.current.place, {"layer": layer}',
        'place, parameters = Graph.current.place, {"layer": N_TEXT_LAYER - 1 - layer}',
        "decoder.blocks.0.cross_attn.qkv_attention",
        "extend of 1 row",
        "max-cpu",
    ),
    "max: no causal mask": Mutation(
        "extend",
        "kernels/row_attention.mojo",
        """                    3 * state,
                    position + token + 1,
                )

    share_range""",
        """                    3 * state,
                    position + length,
                )

    share_range""",
        ATTENTION_TO_TOKENS,
        "extend of 1 row",
        "max-cpu",
    ),
    "max: a bias of joined projections": Mutation(
        "extend",
        "model.py",
        "n_in, len(children) * n_out)",
        "n_in, len(children) * n_out) + 0.01",
        "decoder.blocks.0.attn.query",
        "extend of 1 row",
        "max-cpu",
    ),
    "max: a step past position 200": Mutation(
        "step",
        "kernels/row_attention.mojo",
        """                    3 * state,
                    position + token + 1,
                )

    share_range""",
        """                    3 * state,
                    min(position + token + 1, 200),
                )

    share_range""",
        ATTENTION_TO_TOKENS,
        "step of 1 row at 224",
        "max-cpu",
    ),
    "max: a reordered row that reads the wrong slot": Mutation(
        "step",
        "kernels/row_attention.mojo",
        "Int(slots.unsafe_offset(position).unsafe_load()) * slot_stride",
        "Int(max(slots.unsafe_offset(position).unsafe_load(), 1)) * slot_stride",
        ATTENTION_TO_TOKENS,
        "step of 3 rows, reordered, row 1 at 224",
        "max-cpu",
    ),
}

# One for encoder and extend, and what only the shipped step shows; the others take minutes of compilation.
FEW = (
    "two layers swapped",
    "no causal mask",
    "the fused step alone",
    "a step past position 200",
    "a reordered row that reads the wrong slot",
    "max: no causal mask",
)
CASES = [pytest.param(mutation, marks=() if mutation in FEW else pytest.mark.exhaustive) for mutation in MUTATIONS]


def held(directory: Path) -> HeldFiles:
    return HeldFiles(directory, scan(directory)[0], ArtifactError)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_a_mutation_changes_is_there_once(mutation, repository):
    """The others take minutes, and would go unnoticed when they fit no more."""
    change = MUTATIONS[mutation]
    if change.file == "model.py":
        backend = resolve(change.target).backend
        source = emit(packed_spec(VARIANTS["multilingual_80_mels"], "float32", backend))
    else:
        source = (repository / change.file).read_text()
    assert source.count(change.text) == 1


@pytest.fixture(scope="module")
def module():
    return transformers_module(VARIANTS["multilingual_80_mels"], seed=3)


@pytest.fixture(scope="module")
def artifact(module, tmp_path_factory):
    """artifact(target) -> the small model, right."""

    @cache
    def converted(target: str):
        output = tmp_path_factory.mktemp("small") / "artifact"
        return whisper2max.convert(module=module, target=target, output=output)

    return converted


@pytest.fixture(scope="module")
def mutated(request, artifact, tmp_path_factory):
    """For every mutation that is asked for: a directory that ships it, and the graph with its values as outputs."""
    items = [item for item in request.session.items if "mutated" in getattr(item, "fixturenames", ())]
    asked = {item.callspec.params["mutation"] for item in items}
    right = {MUTATIONS[mutation].target: artifact(MUTATIONS[mutation].target) for mutation in asked}

    def make(mutation: str):
        change = MUTATIONS[mutation]
        paths = graph_taps(right[change.target].spec)
        directory = tmp_path_factory.mktemp("mutated") / "artifact"
        shutil.copytree(right[change.target].path, directory)
        source = (directory / change.file).read_text()
        assert source.count(change.text) == 1, mutation
        (directory / change.file).write_text(source.replace(change.text, change.replacement))
        changed = Source.of(held(directory))
        shipped, tapped = (
            compile_tapped(changed, {change.graph: taps}, resolve(change.target), print)[change.graph]
            for taps in ((), paths[change.graph])
        )
        (directory / f"{change.graph}.mef").unlink()
        shipped.copy_to(directory / f"{change.graph}.mef")
        return held(directory), tapped

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(sorted(asked), pool.map(make, sorted(asked)), strict=True))


@pytest.fixture
def judged(artifact, module, mutated, monkeypatch):
    """Compares what is shipped under a mutation with the module, and values that are computed under it or not."""

    def judge(mutation: str, values_mutated: bool = True) -> ParityReport:
        (files, tapped), change = mutated[mutation], MUTATIONS[mutation]

        def compile_these(source, *arguments):
            compiled = compile_tapped(Source.of(artifact(change.target).files), *arguments)
            return {**compiled, change.graph: tapped} if values_mutated else compiled

        monkeypatch.setattr(graphs, "compile_tapped", compile_these)
        report = proof_of(files, module, change.target)
        print(f"{mutation}: {report.explanation()}")
        return report

    return judge


def proof_of(files: HeldFiles, module, target: str) -> ParityReport:
    source = from_module(module)
    walked = walk(source.module, source.dims)
    return prove(files, source, walked, "float32", resolve(target), load_inputs([]), versions(), print)


@pytest.mark.parametrize("mutation", CASES)
def test_a_wrong_program_is_caught_and_its_first_row_named(judged, mutation):
    report, change = judged(mutation), MUTATIONS[mutation]
    assert not report.passed
    row = report.first_divergent
    assert (row.path, row.build) == (change.path, "tapped")
    assert change.place in row.place.words
    # rounding comes to less than half of a limit; tanh for erf is the mildest, six limits in a network this small
    assert row.of_limit > 4
    assert not any(each.different for each in report.found.same_bits), "what ships is what was compared"
    assert not report.weights.different


@pytest.mark.parametrize("mutation", ["a step past position 200"])
def test_a_wrong_program_that_ships_beside_right_values_is_another_program(judged, mutation):
    report = judged(mutation, values_mutated=False)
    row = report.first_divergent
    assert (row.path, row.build) == ("decoder.logits", "shipped") and row.place.words == "step of 1 row at 224"
    other = [each.place for each in report.found.same_bits if each.different]
    assert other[0] == "step of 1 row at 224" and not any("at 4" in place.split() for place in other)
    assert "The shipped step of 1 row at 224 is not the graph whose values were compared" in report.explanation()


def test_a_wrong_choice_of_the_token_is_caught(artifact, module, tmp_path):
    """No value is wrong then: the tokens are, of rows that go on by themselves."""
    directory = tmp_path / "artifact"
    shutil.copytree(artifact("max-cpu").path, directory)
    file = directory / "kernels" / "choose.mojo"
    others, of_cpu = file.read_text().split("def choose_on_cpu")
    text = "others.take(score, id)"
    assert of_cpu.count(text) == 1
    file.write_text(f"{others}def choose_on_cpu{of_cpu.replace(text, 'others.take(-abs(score), id)')}")
    wrong = compile_tapped(Source.of(held(directory)), {"choose": ()}, resolve("max-cpu"), print)["choose"]
    (directory / "choose.mef").unlink()
    wrong.copy_to(directory / "choose.mef")
    report = proof_of(held(directory), module, "max-cpu")
    assert not report.passed and report.first_divergent is None
    assert {row.kind for row in report.tokens if row.first_different is not None} == {"free"}
