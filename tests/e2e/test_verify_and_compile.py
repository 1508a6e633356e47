"""compile rebuilds the graphs and marks the artifact unverified; verify judges it again and says so."""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch
from small_models import VARIANTS, transformers_module

import whisper2max
from whisper2max.artifact import UnverifiedArtifactWarning, open_artifact, write_manifest
from whisper2max.errors import UsageError
from whisper2max.rebuild import rebuild


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
    assert "parity.json" not in rebuilt.manifest["files"]
    assert rebuilt.manifest["files"]["weights.safetensors"] == before["weights.safetensors"]
    with pytest.warns(UnverifiedArtifactWarning, match="whisper2max verify"):
        open_artifact(artifact.path)

    report = whisper2max.verify(artifact.path, checkpoint=checkpoint)
    assert report.passed
    verified = open_artifact(artifact.path)
    assert verified.verified and verified.manifest["parity"]["passed"]
    assert json.loads(verified.file("parity.json").read_text())["passed"]


def test_verify_fails_on_weights_that_were_changed_and_resealed(artifact, checkpoint):
    path = artifact.file("weights.safetensors")
    weights = safetensors.numpy.load_file(path)
    changed = weights["decoder.blocks.1.mlp.0.weight"].copy()
    changed[7, ::2] += np.float32(0.2)
    path.unlink()
    safetensors.numpy.save_file({**weights, "decoder.blocks.1.mlp.0.weight": changed}, path)
    write_manifest(artifact.path, artifact.manifest)
    report = whisper2max.verify(artifact.path, checkpoint=checkpoint)
    assert not report.passed
    assert report.first_divergent.path == "prompt.logits"


def test_verify_needs_a_checkpoint_that_can_be_found(artifact):
    with pytest.raises(UsageError, match="give --checkpoint"):
        whisper2max.verify(artifact.path)


def test_verify_refuses_another_model(artifact, tmp_path):
    torch.manual_seed(1)
    transformers_module(VARIANTS["english_80_mels"]).save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="another model"):
        whisper2max.verify(artifact.path, checkpoint=tmp_path / "other")
