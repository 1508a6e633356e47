"""What the files of an artifact hold agrees with the manifest and with each other; all faults are told at once."""

import json

import pytest
from artifact_samples import DIMS, N_TEXT, sample_spec, write_files

from whisper2max.artifact.contents import read_contents
from whisper2max.artifact.listing import scan
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFiles


@pytest.fixture
def directory(tmp_path):
    write_files(tmp_path)
    return tmp_path


NATIVE = {"name": "native", "cpu_features": []}


def read(directory, dtype="float32", targets=(NATIVE,), **dims):
    files = HeldFiles(directory, scan(directory)[0], ArtifactError)
    return read_contents(files, ModelDimensions(**{**DIMS, **dims}), dtype, targets)


def test_what_is_read(directory):
    contents = read(directory)
    assert contents.spec == sample_spec()
    assert contents.tokenizer.n_vocab == DIMS["n_vocab"]
    assert contents.generation == json.loads((directory / "generation.json").read_text())


def test_every_fault_is_in_one_message(directory):
    (directory / "graph.txt").write_text("evil\n")
    (directory / "tokenizer.json").write_text("{}")
    (directory / "generation.json").write_text("[]")
    (directory / "step.mef").write_text("")
    with pytest.raises(ArtifactError) as caught:
        read(directory)
    for fault in ("line 1 of the graph text", "tokenizer.json", "generation.json holds a JSON", "step.mef is empty"):
        assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "dims", "pattern"),
    [
        ("int8", {}, "different models: dtype int8 and 'float32'"),
        ("float32", {"n_text_head": 4}, "different models: n_text_head 4 and 2"),
        ("float32", {"n_audio_ctx": 1000, "n_mels": 128}, "models: n_mels 128 and 80, n_audio_ctx 1000 and 1500"),
    ],
)
def test_the_manifest_and_the_graph_are_of_one_model(directory, dtype, dims, pattern):
    with pytest.raises(ArtifactError, match=pattern):
        read(directory, dtype, **dims)


def test_weights_are_those_of_the_graph(directory):
    text = (directory / "graph.txt").read_text()
    (directory / "graph.txt").write_text(text.replace("out_features=4, bias=True", "out_features=4, bias=False"))
    with pytest.raises(ArtifactError, match=r"weights.safetensors is not of this graph: .*query.bias is not in"):
        read(directory)


@pytest.mark.parametrize(("suppressed", "refused"), [(N_TEXT, True), (N_TEXT - 1, False)])
def test_something_can_be_said(directory, suppressed, refused):
    generation = json.loads((directory / "generation.json").read_text())
    generation["suppress_tokens"] = list(range(suppressed))
    (directory / "generation.json").write_text(json.dumps(generation))
    if refused:
        with pytest.raises(ArtifactError, match="suppresses every token of text"):
            read(directory)
    else:
        assert len(read(directory).generation["suppress_tokens"]) == suppressed


H100 = {"name": "sm_90", "cpu_features": [], "gpu": {"api": "cuda", "architecture": "sm_90a"}}
A100 = {"name": "sm_80", "cpu_features": [], "gpu": {"api": "cuda", "architecture": "sm_80"}}


def test_graphs_for_gpus_are_of_a_network_for_them(directory):
    with pytest.raises(ArtifactError, match="graph.txt is of a network for CPUs, and the targets are sm_90"):
        read(directory, targets=[H100])


def test_every_target_has_its_graphs(tmp_path):
    write_files(tmp_path, backend="max", folders=["sm_80"])
    assert read(tmp_path, targets=[H100, A100]).spec.backend == "max"
    (tmp_path / "sm_80" / "audio.mef").unlink()
    with pytest.raises(ArtifactError, match="sm_80/audio.mef is missing"):
        read(tmp_path, targets=[H100, A100])
