"""docs/examples/base is what convert writes today."""

import hashlib
import json
from dataclasses import fields

import pytest
from small_models import packed_spec

from whisper2max.artifact.manifest import read_manifest
from whisper2max.core.dims import ModelDimensions
from whisper2max.graph.emit import emit
from whisper2max.graph.passes import PASSES
from whisper2max.parity.figures import Row
from whisper2max.parity.report import SCHEMA_VERSION, Findings, ParityReport, TokenRow

EMPTY = ParityReport("float32", "", None, Findings((), (), (), ()), None, {}, {})
REFRESH = "run `make examples`"


@pytest.fixture
def example(repository):
    return repository / "docs" / "examples" / "base"


def test_model_py_is_what_the_emitter_writes(example):
    dims = ModelDimensions(**json.loads((example / "manifest.json").read_text())["dims"])
    assert dims == ModelDimensions(80, 1500, 512, 8, 6, 51865, 448, 512, 8, 6)
    assert (example / "model.py").read_text() == emit(packed_spec(dims, "float32")), REFRESH


def test_manifest_has_todays_schema_and_describes_the_files(example):
    manifest = read_manifest(example)
    assert manifest["verified"] and manifest["parity"]["passed"]
    for name in ("model.py", "parity.html", "parity.json"):
        digest = hashlib.sha256((example / name).read_bytes()).hexdigest()
        assert digest == manifest["files"][name]["sha256"], REFRESH
    summary = EMPTY.summary()
    assert manifest["parity"].keys() == summary.keys(), REFRESH


def test_parity_json_has_todays_schema(example):
    report = json.loads((example / "parity.json").read_text())
    assert report["schema_version"] == SCHEMA_VERSION, REFRESH
    assert report.keys() == EMPTY.to_dict().keys(), REFRESH
    assert report["dtype"] in PASSES["cpu"]
    for row in report["layers"] + report["logits"]:
        assert row.keys() == {field.name for field in fields(Row)}, REFRESH
    for row in report["tokens"]["rows"]:
        assert row.keys() == {field.name for field in fields(TokenRow)} | {"passed"}, REFRESH
