import json
from dataclasses import replace

import numpy as np
from test_report import ROW, report

from whisper2max.parity.comparison import environment
from whisper2max.parity.html import write_report
from whisper2max.parity.report import Input


def test_a_row_is_a_line_and_a_link_is_not_written_through(tmp_path):
    (tmp_path / "elsewhere.json").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "parity.json").hardlink_to(tmp_path / "elsewhere.json")
    inputs = (Input("a.wav", 1.5, "Hello."),)
    both = report(ROW, replace(ROW, input="b.wav"))
    found = replace(both, found=replace(both.found, inputs=inputs), environment=environment({}))
    write_report(tmp_path / "out", found, [("a.wav", np.random.default_rng(0).normal(size=16000).astype(np.float32))])
    text = (tmp_path / "out" / "parity.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(found.to_dict()))
    assert sum('"path": "encoder.conv1.gelu"' in line for line in text.splitlines()) == 2
    assert (tmp_path / "elsewhere.json").read_text() == "precious"
    assert "Hello." in (tmp_path / "out" / "parity.html").read_text()
