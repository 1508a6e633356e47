"""compile rebuilds the graphs and marks the artifact unverified; verify judges it again and says so."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from small_models import VARIANTS, openai_module, transformers_module

import whisper2max
from whisper2max.artifact.artifact import UnverifiedArtifactWarning, open_artifact
from whisper2max.artifact.manifest import write_manifest
from whisper2max.build.rebuild import rebuild
from whisper2max.core.errors import ParityError, SpecError, UsageError
from whisper2max.graph import passes
from whisper2max.graph.ir import DTYPES
from whisper2max.graph.walker import walk

COMMAND = str(Path(sys.executable).with_name("whisper2max"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A Hugging Face directory of tiny dimensions, without a tokenizer."""
    directory = tmp_path_factory.mktemp("checkpoint")
    transformers_module(VARIANTS["multilingual_80_mels"], seed=3).save_pretrained(directory)
    return directory


@pytest.fixture
def artifact(small_artifact, checkpoint, tmp_path):
    return whisper2max.convert(checkpoint=checkpoint, output=tmp_path / "artifact")


def test_compile_marks_unverified_until_verify_passes(artifact, checkpoint):
    before = artifact.manifest["files"]
    rebuilt = rebuild(artifact.path, lambda message: None)
    assert not rebuilt.verified and rebuilt.manifest["parity"] is None
    assert not {"parity.json", "parity.html"} & rebuilt.manifest["files"].keys()
    assert rebuilt.manifest["files"]["weights.safetensors"] == before["weights.safetensors"]
    with pytest.warns(UnverifiedArtifactWarning, match="whisper2max verify"):
        open_artifact(artifact.path)

    report = whisper2max.verify(artifact.path, checkpoint=checkpoint)
    assert report.passed
    verified = open_artifact(artifact.path)
    assert verified.verified and verified.manifest["parity"]["passed"]
    assert json.loads(verified.file("parity.json").read(1 << 24))["passed"]


BLOCK = "decoder.blocks.1"


def reseal(artifact, name, change):
    """Change one stored weight and write hashes that agree with it."""
    path = artifact.path / "weights.safetensors"
    weights = safetensors.numpy.load_file(path)
    changed = weights[name].copy()
    change(changed)
    path.unlink()
    safetensors.numpy.save_file({**weights, name: changed}, path)
    write_manifest(artifact.path, artifact.manifest)


def test_verify_names_layer_and_tensor_of_a_changed_and_resealed_weight(artifact, checkpoint, tmp_path):
    def change(weight):
        weight[0, ::2, 7] += np.float32(0.2)

    reseal(artifact, "decoder.blocks.1.mlp.0.weight", change)
    report = whisper2max.verify(artifact.path, checkpoint=checkpoint, report_to=tmp_path / "report")
    assert not report.passed
    row = report.first_divergent
    assert (row.path, row.kernel, row.inside) == (f"{BLOCK}.mlp.1", "linear", (f"{BLOCK}.mlp.0",))
    assert row.source_path == "model.decoder.layers.1.activation_fn"
    assert [each.name for each in report.weights.different] == ["decoder.blocks.1.mlp.0.weight"]
    said = report.explanation()
    assert "Its inputs were good" in said and f"{BLOCK}.mlp_ln 0." in said
    assert f"computed by linear, which has {BLOCK}.mlp.0 inside" in said
    assert json.loads((tmp_path / "report" / "parity.json").read_text())["explanation"] == said
    assert "decoder.blocks.1.mlp.0" in (tmp_path / "report" / "parity.html").read_text()


def test_the_audit_finds_what_no_recording_reaches(artifact, checkpoint):
    def change(weight):
        place = 1250, 3, 0, 0  # token 40,000: panel 1250, column 0
        weight[place] = np.nextafter(weight[place], np.float32(1))

    reseal(artifact, "decoder.token_embedding.weight", change)
    report = whisper2max.verify(artifact.path, checkpoint=checkpoint)
    assert report.first_divergent is None and not report.passed
    (difference,) = report.weights.different
    assert (difference.name, difference.index) == ("decoder.token_embedding.weight", (40_000, 3))
    assert "weights.safetensors is not the checkpoint: decoder.token_embedding.weight" in report.explanation()


NEARLY = {"float32": 1 + 2.0**-20, "bfloat16": 1 + 2.0**-7, "int8": 1 + 2.0**-7}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packer_that_swaps_two_rows_is_caught_and_the_tensor_named(tmp_path, monkeypatch, dtype):
    """Two tokens that no recording reaches, and whose rows are nearly the same: no value of the network shows it."""
    module = transformers_module(VARIANTS["multilingual_80_mels"], seed=3)
    with torch.no_grad():
        rows = module.model.decoder.embed_tokens.weight
        rows[41_777] = rows[40_001] * NEARLY[dtype]
    pack_embedding = passes.PASSES["cpu"][dtype][-1]

    def pack_swapped(spec, tensors):
        table = tensors["decoder.token_embedding.weight"].clone()
        table[[40_001, 41_777]] = table[[41_777, 40_001]]
        return pack_embedding(spec, {**tensors, "decoder.token_embedding.weight": table})

    monkeypatch.setitem(passes.PASSES["cpu"], dtype, (*passes.PASSES["cpu"][dtype][:-1], pack_swapped))
    with pytest.raises(ParityError, match=r"weights.safetensors is not the checkpoint: decoder.token_embedding.weight"):
        whisper2max.convert(module=module, dtype=dtype, output=tmp_path / "artifact")
    report = json.loads((tmp_path / "artifact.failed" / "parity.json").read_text())
    first = report["weights"]["different"][0]
    # int8 rows that are the same but for a factor have the same values, in steps of another size
    name = "decoder.token_embedding.weight" + ("_scales" if dtype == "int8" else "")
    assert (first["name"], first["index"][0]) == (name, 40_001)
    assert report["first_divergent"] is None


def test_verify_exits_1_and_says_why(artifact, checkpoint):
    def change(weight):
        weight[5] += np.float32(0.5)

    reseal(artifact, "encoder.blocks.0.attn.out.bias", change)
    command = [COMMAND, "verify", str(artifact.path), "--checkpoint", str(checkpoint)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    said = " ".join(result.stderr.split())
    assert "encoder.blocks.0.attn.residual (model.encoder.layers.0.self_attn.out_proj) is the first that" in said
    assert "computed by linear_add, which has encoder.blocks.0.attn.out inside" in said
    assert "FAILED" in result.stderr and "Traceback" not in result.stderr


def test_both_families_vouch_for_the_same_artifact(artifact, checkpoint):
    module = transformers_module(VARIANTS["multilingual_80_mels"], seed=3)
    tensors = walk(module, artifact.dims).tensors
    other = openai_module(artifact.dims)
    other.load_state_dict(tensors)
    reports = [whisper2max.verify(artifact.path, module=each) for each in (module, other)]
    assert all(report.passed for report in reports)
    ours, theirs = reports
    assert ours.reference == theirs.reference and "float64" in ours.reference
    assert "WhisperForConditionalGeneration" in ours.witness and "openai-whisper" in theirs.witness
    assert len(ours.rows) == len(theirs.rows) and ours.tokens == theirs.tokens
    for left, right in zip(ours.rows, theirs.rows, strict=True):
        assert (left.path, left.max_abs, left.ref_max_abs) == (right.path, right.max_abs, right.ref_max_abs)


def test_a_single_wrong_epsilon_is_found_without_running_anything(artifact):
    module = transformers_module(VARIANTS["multilingual_80_mels"], seed=3)
    module.model.encoder.layers[1].final_layer_norm.eps = 1e-6
    with pytest.raises(SpecError, match="encoder.blocks.1.mlp_ln"):
        whisper2max.verify(artifact.path, module=module)


def test_a_graph_with_other_attributes_than_the_module_is_refused(artifact):
    module = transformers_module(VARIANTS["multilingual_80_mels"], seed=3)
    module.model.encoder.layer_norm.eps = 1e-6
    with pytest.raises(ParityError, match="encoder.ln_post: LayerNorm.*1e-05.*the module has.*1e-06"):
        whisper2max.verify(artifact.path, module=module)


def test_isolated_blocks_put_the_blame_where_it_belongs(artifact, checkpoint):
    def change(weight):
        weight[3] += np.float32(0.5)

    assert whisper2max.verify(artifact.path, checkpoint=checkpoint, isolated=True).passed
    reseal(artifact, "encoder.blocks.0.mlp.2.bias", change)
    report = whisper2max.verify(artifact.path, checkpoint=checkpoint, isolated=True)
    assert report.first_divergent.path == "encoder.blocks.0"
    assert report.first_divergent.inside == ("encoder.blocks.0.mlp.2",)
    assert {row.path for row in report.rows if row.build == "tapped" and not row.passed} > {"encoder.blocks.1.attn_ln"}
    blamed = {row.path for row in report.rows if row.build == "isolated" and not row.passed}
    assert blamed == {"encoder.blocks.0"}


def test_verify_needs_a_checkpoint_that_can_be_found(artifact):
    with pytest.raises(UsageError, match="give --checkpoint"):
        whisper2max.verify(artifact.path)


def test_verify_refuses_another_model(artifact, tmp_path):
    torch.manual_seed(1)
    transformers_module(VARIANTS["english_80_mels"]).save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="another model"):
        whisper2max.verify(artifact.path, checkpoint=tmp_path / "other")
