"""Graphs for GPUs: their network on this CPU against PyTorch, and their decoder compiled for a GPU that is not here."""

import numpy as np
import pytest
from small_models import VARIANTS, packed_spec, transformers_module

import whisper2max
from whisper2max.build.compiler import Source, compile_tapped
from whisper2max.build.target import resolve
from whisper2max.graph.emit import emit
from whisper2max.runtime.options import DecodingOptions

DIMS = VARIANTS["multilingual_80_mels"]


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory):
    """The small model with the network of the GPUs, in float32."""
    module = transformers_module(DIMS, seed=3)
    return whisper2max.convert(module=module, target="max-cpu", output=tmp_path_factory.mktemp("max") / "artifact")


def test_the_network_is_proven_and_ships_what_was_judged(on_the_cpu):
    parity = on_the_cpu.manifest["parity"]
    assert on_the_cpu.verified and on_the_cpu.executed and on_the_cpu.spec.backend == "max"
    assert parity["passed"] and parity["rows"] > 300
    assert parity["tokens"]["equal"] == parity["tokens"]["compared"] > 0
    assert "choose.mef" in on_the_cpu.files and "kernels/choose.mojo" in on_the_cpu.files
    assert "kernels/step.mojo" not in on_the_cpu.files


def test_it_decodes_as_the_network_on_packed_weights(on_the_cpu, small_artifact):
    """Windows together, each with rules of its own, whose tokens a graph chooses here and numpy there."""
    mel = np.random.default_rng(2).normal(0, 0.5, (3, DIMS.n_mels, DIMS.n_frames)).astype(np.float32)
    options = [
        DecodingOptions(language="en", sample_len=40),
        DecodingOptions(language="de", sample_len=25, without_timestamps=True),
        DecodingOptions(language="en", sample_len=30, suppress_tokens=None, max_initial_timestamp=None),
    ]
    with whisper2max.load(on_the_cpu.path) as model:
        assert model.engine.chooses
        ours = model.decode(mel, options)
    with whisper2max.load(small_artifact.path) as model:
        assert not model.engine.chooses
        theirs = model.decode(mel, options)
    assert [each.tokens for each in ours] == [each.tokens for each in theirs]
    for left, right in zip(ours, theirs, strict=True):
        assert left.avg_logprob == pytest.approx(right.avg_logprob, abs=1e-5)
    assert len({len(each.tokens) for each in ours}) > 1


def test_the_decoder_compiles_for_a_gpu_that_is_not_here():
    source = Source.generated(emit(packed_spec(DIMS, "bfloat16", "max")))
    compiled = compile_tapped(source, {"features": (), "step": (), "choose": ()}, resolve("sm_90"), print)
    for name, mef in compiled.items():
        assert b"sm_90" in mef.read(64 << 20), f"{name} holds no code for it"


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", ["base", "tiny.en"])
def test_real_weights_on_every_clip(size, tmp_path, shared_audio, clips):
    made = whisper2max.convert(size=size, target="max-cpu", output=tmp_path / "made")
    names = [clip.name for clip in clips if size == "base" or clip.language == "en"]
    report = whisper2max.verify(made.path, audio=[shared_audio / name for name in names])
    compared = sum(row.compared for row in report.tokens)
    print(f"{size}: {len(report.rows)} values on {len(names)} clips, {compared} tokens: {report.explanation()}")
    assert report.passed and compared > 1000
