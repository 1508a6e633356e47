"""convert: an artifact that is complete and proven, or nothing at all."""

import json
import re

import numpy as np
import pytest
import torch
from small_models import VARIANTS, openai_module, transformers_module

import whisper2max
from whisper2max.artifact.artifact import open_artifact
from whisper2max.artifact.manifest import GRAPHS
from whisper2max.build import compiler as build
from whisper2max.core.errors import ArtifactError, BuildError, ParityError, UsageError
from whisper2max.graph.passes import PASSES
from whisper2max.graph.walker import walk
from whisper2max.parity.taps import graph_taps

FILES = {
    *(f"{name}.mef" for name in ("audio", "encoder", "extend", "features", "step")),
    "generation.json",
    "graph.txt",
    "kernels/__init__.mojo",
    "model.py",
    "parity.html",
    "parity.json",
    "tokenizer.json",
    "weights.safetensors",
}
# case, row and position of every execution of a graph of the decoder
EXTENDED = [("1 row", None, 0), *(("3 rows on shared prefixes", row, at) for row, at in enumerate((224, 4, 0)))]
STEPPED = [
    *(("1 row", None, at) for at in (4, 224, 447)),
    *(("3 rows, reordered", row, at) for row, at in enumerate((447, 224, 447))),
]


def test_an_artifact_holds_everything_that_its_format_names(small_artifact, repository):
    every = {f"kernels/{path.name}" for path in (repository / "kernels").glob("*.mojo")}
    of_gpus = {f"kernels/{name}.mojo" for name in ("block", "choose", "row_attention", "row_norm", "row_product")}
    assert set(small_artifact.manifest["files"]) == FILES | every - of_gpus
    assert small_artifact.verified
    assert small_artifact.dims == VARIANTS["multilingual_80_mels"]
    assert small_artifact.manifest["source"]["format"] == "module"
    versions = small_artifact.manifest["versions"]
    assert versions.keys() == {"max", "mojo", "whisper2max", "torch", "transformers"}
    graph = small_artifact.file("graph.txt").read(1 << 20).decode()
    assert small_artifact.spec.to_text() == graph and small_artifact.spec.dims == small_artifact.dims


def test_parity_report_compares_every_value(small_artifact, small_module):
    report = json.loads(small_artifact.file("parity.json").read(1 << 24))
    assert report["passed"] and report["first_divergent"] is None
    rows = report["layers"] + report["logits"]
    spec = small_artifact.spec
    runs = {}
    for row in rows:
        run = tuple(row[name] for name in ("build", "graph", "case", "row", "position"))
        runs.setdefault(run, []).append(row["path"])
    values = graph_taps(spec)
    whole = (None, None, None)
    assert runs == {
        ("shipped", "features", *whole): ["log_mel"],
        ("tapped", "encoder", *whole): values["encoder"],
        ("tapped", "audio", *whole): values["audio"],
        ("tapped", "audio", "half the frames, twice", None, None): values["audio"],
        **{("tapped", "extend", *run): values["extend"] for run in EXTENDED},
        **{("tapped", "step", *run): values["step"] for run in STEPPED},
        ("shipped", "encoder", *whole): ["encoder.ln_post"],
        **{("shipped", "extend", *run): ["decoder.logits"] for run in EXTENDED},
        **{("shipped", "step", *run): ["decoder.logits"] for run in STEPPED},
        ("shipped", "step", "1 row, token by token", None, 3): ["decoder.logits"],
    }
    assert len(report["same_bits"]) >= 1 + len(EXTENDED) + len(STEPPED)
    assert all(each["compared"] > 0 and each["different"] == 0 for each in report["same_bits"])
    assert report["tokens"]["compared"] == report["tokens"]["equal"] > 0
    assert sum(row["max_abs"] > 0 for row in rows) > 0.9 * len(rows)
    assert all(row["max_abs"] <= row["tolerance"]["max_abs"] and row["passed"] for row in rows)
    walked = walk(small_module, small_artifact.dims).tensors
    n_values = sum(tensor.numel() for tensor in walked.values())
    assert report["weights"] == {"tensors": len(walked), "values": n_values, "different": []}


def test_other_weights_of_the_same_dimensions_compile_nothing(small_artifact, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a graph was compiled again")

    monkeypatch.setattr(build, "_compile_in_subprocess", refuse)
    dims = VARIANTS["multilingual_80_mels"]
    other = whisper2max.convert(module=openai_module(dims, seed=8), output=tmp_path / "other")
    files, first = other.manifest["files"], small_artifact.manifest["files"]
    for name in ("model.py", *(f"{graph}.mef" for graph in GRAPHS)):
        assert files[name] == first[name]
    assert files["weights.safetensors"] != first["weights.safetensors"]
    assert other.manifest["parity"]["witness"].startswith("Whisper (openai-whisper")


PERTURBED = {
    # the second Linear of a block and the residual are one kernel, whose output is the block's
    "encoder.blocks.1.mlp.2.weight": ("encoder.blocks.1", "model.encoder.layers.1"),
    "decoder.blocks.0.cross_attn.value.weight": (
        "decoder.blocks.0.cross_attn.value",
        "model.decoder.layers.0.encoder_attn.v_proj",
    ),
    "decoder.blocks.1.attn.key.weight": ("decoder.blocks.1.attn.key", "model.decoder.layers.1.self_attn.k_proj"),
}


@pytest.mark.parametrize("name", PERTURBED)
def test_a_wrong_weight_publishes_nothing(small_artifact, small_module, tmp_path, monkeypatch, name):
    def perturb(spec, tensors):
        changed = tensors[name].clone()
        changed[0, ::2, 3] += 0.2
        return spec, {**tensors, name: changed}

    monkeypatch.setitem(PASSES["cpu"], "float32", (*PASSES["cpu"]["float32"], perturb))
    output = tmp_path / "wrong"
    path, source_path = PERTURBED[name]
    with pytest.raises(ParityError, match=re.escape(f"{path} ({source_path}) is the first that diverges")):
        whisper2max.convert(module=small_module, output=output)
    assert not output.exists()
    failed = tmp_path / "wrong.failed"
    assert {"FAILED.txt", "model.py", "parity.html", "parity.json"} <= {path.name for path in failed.iterdir()}
    assert not list(failed.glob("*.mef")) and not list(failed.glob("*.safetensors"))
    report = json.loads((failed / "parity.json").read_text())
    assert not report["passed"] and report["first_divergent"]["path"] == path
    with pytest.raises(ArtifactError):
        whisper2max.load(failed)


def test_an_existing_artifact_is_replaced_only_with_force(small_artifact, small_module, tmp_path):
    output = tmp_path / "artifact"
    whisper2max.convert(module=small_module, output=output)
    with pytest.raises(UsageError, match="--force"):
        whisper2max.convert(module=small_module, output=output)
    whisper2max.convert(module=small_module, output=output, force=True)
    assert open_artifact(output).verified


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of"),
        ({"size": "base", "checkpoint": "somewhere"}, "exactly one of"),
        ({"checkpoint": "somewhere", "random_init": 1}, "needs --size"),
        ({"size": "base", "dtype": "float64"}, "float64"),
    ],
)
def test_contradicting_options(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        whisper2max.convert(output=tmp_path / "never", **arguments)
    assert not list(tmp_path.iterdir())


def test_the_module_is_left_as_it_was(small_artifact, tmp_path):
    module = transformers_module(VARIANTS["multilingual_80_mels"], seed=5).to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    whisper2max.convert(module=module, output=tmp_path / "bfloat16")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.dtype == torch.bfloat16


def test_a_builder_that_fails_shows_numbered_source(small_artifact, tmp_path, monkeypatch):
    def broken(spec):
        # in every builder, since a graph that compiles meanwhile is waited for, and before it compiles the kernels
        return small_artifact.file("model.py").read(1 << 20).decode().replace("with Network(", "with Missing(")

    monkeypatch.setattr("whisper2max.conversion.emit", broken)
    dims = VARIANTS["multilingual_80_mels"]
    with pytest.raises(BuildError) as caught:
        whisper2max.convert(module=transformers_module(dims), output=tmp_path / "broken")
    assert "NameError" in str(caught.value) and any(
        line.startswith("> ") and "Missing(" in line for line in str(caught.value).splitlines()
    )
    assert not (tmp_path / "broken").exists()


def test_weights_are_the_modules(small_artifact, small_module):
    from whisper2max.runtime.weights import map_weights

    weights = map_weights(small_artifact.file("weights.safetensors"))
    assert not weights["encoder.conv1.bias"].flags.writeable
    tokens = small_module.model.decoder.embed_tokens.weight.detach().numpy()
    panels = weights["decoder.token_embedding.weight"]
    table = panels.transpose(0, 2, 1, 3).reshape(-1, tokens.shape[1])
    np.testing.assert_array_equal(table[: len(tokens)], tokens)
