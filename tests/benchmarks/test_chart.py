"""The chart is well-formed, its bars are as long as the medians, and what failed is said."""

import xml.etree.ElementTree as ElementTree

import pytest
from chart import OURS, THEIRS, chart
from rounds import Results

RESULTS = Results(
    ["ours", "theirs <1>", "other"],
    ["long", "short"],
    values={"long": {"ours": [2.0], "theirs <1>": [6.0]}},
    failed={"long": {"other": "no file"}},
)


@pytest.fixture
def svg():
    return ElementTree.fromstring(chart(RESULTS, {"ours"}, "CPU & date"))


def test_bars_are_in_proportion(svg):
    bars = [bar for bar in svg.findall(".//{*}rect") if bar.get("fill") in (OURS, THEIRS)]
    assert [bar.get("fill") for bar in bars] == [OURS, THEIRS]
    assert float(bars[1].get("width")) == pytest.approx(3 * float(bars[0].get("width")), rel=0.01)


def test_texts_name_peers_values_and_gaps(svg):
    texts = [text.text for text in svg.findall(".//{*}text")]
    assert {"theirs <1>", "6.00", "failed", "not measured", "127 s, s", "CPU & date"} <= set(texts)
