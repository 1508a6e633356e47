"""parity.html in a real browser: what it says, sorts, filters, draws and prints, and that it asks nobody anything."""

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from whisper2max.parity import figures
from whisper2max.parity.html import figure, kernel_words, margin, render, share, worst_words

CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-color-profile=srgb",
]
PLAIN = "speech.flac"
HOSTILE = "<img src=x onerror=alert(1)>.wav"
TRANSCRIPTS = {
    PLAIN: "And so my fellow Americans, ask not what your country can do for you.",
    HOSTILE: "</script><script>alert(2)</script> {{ 7 * 7 }} & \u2028 “你好” <!-- ",
}
DIVERGENT = "encoder.blocks.1.attn.query"
OTHER_BITS = f"not the step of 1 row at 224 on {HOSTILE}"
LIMITS = {"max_abs": 3e-5, "rel_rmse": 2e-6}


# ---------------------------------------------------------------- a report


def attention(block: str, name: str) -> list[str]:
    inside = ("query", "key", "value", "qkv_attention", "residual")
    return [f"{block}.{name}_ln", *(f"{block}.{name}.{each}" for each in inside)]


def paths(side: str, layers: int) -> list[str]:
    stems = {"encoder": ["conv1.gelu", "positional_embedding"], "decoder": ["token_embedding"]}
    found = [f"{side}.{each}" for each in stems[side]]
    for layer in range(layers):
        block = f"{side}.blocks.{layer}"
        found += attention(block, "attn")
        if side == "decoder":
            found += attention(block, "cross_attn")
        found += [f"{block}.mlp_ln", f"{block}.mlp.1", block]
    return [*found, *{"encoder": ["encoder.ln_post"], "decoder": ["decoder.ln", "decoder.logits"]}[side]]


def of_limit(row: dict) -> float:
    """The error of a row as a fraction of its limit."""
    return figures.of_limit(row["max_abs"], row["rel_rmse"], row["tolerance"])


@dataclass(frozen=True)
class Run:
    """What was executed: a build, a graph, and how it was run."""

    build: str
    graph: str
    case: str | None = None
    row: int | None = None
    position: int | None = None


def make_row(random: np.random.Generator, path: str, run: Run, name: str) -> dict:
    """A passing row with random errors of float32's size."""
    length = {"encoder": 1500, "audio": 1500, "step": 1}.get(run.graph, 29)
    shape = [80, 3000] if path == "log_mel" else [1, 3000 if path == "encoder.conv1.gelu" else length, 512]
    max_abs, rel_rmse, torch, largest = (float(f"{value:.3g}") for value in 10 ** random.uniform(-7, -6, 4))
    worst = [int(random.integers(size)) for size in shape]
    if run.position is not None:
        worst[1] += run.position
    return {
        "path": path,
        "source_path": None if path == "log_mel" else f"model.{path.replace('blocks', 'layers')}",
        **vars(run),
        "input": name,
        "kernel": "linear_add" if path.endswith(".residual") else "layer_norm",
        "inside": [path.replace(".residual", ".out")] if path.endswith(".residual") else [],
        "shape": shape,
        "max_abs": max_abs,
        "rel_rmse": rel_rmse,
        "ref_max_abs": largest * 1e7,
        "ref_min": -largest * 1e7,
        "ref_max": largest * 5e6,
        "torch_max_abs": None if path == "log_mel" else torch * 2,
        "torch_rel_rmse": None if path == "log_mel" else torch,
        "variance": [0.02, 31.5] if path.endswith(("_ln", "ln_post", "decoder.ln")) else None,
        "cosine": 0.9999999,
        "kl": 1.2e-9 if path == "decoder.logits" else None,
        "worst": worst,
        "tolerance": {"max_abs": 1e-5, "rel_rmse": None} if path == "log_mel" else dict(LIMITS),
        "passed": True,
    }


def make_rows(random: np.random.Generator, inputs: list[str], layers: int) -> list[dict]:
    encoder, decoder = paths("encoder", layers), paths("decoder", layers)
    audio = [path for path in decoder if path.endswith((".cross_attn.key", ".cross_attn.value"))]
    extended = [path for path in decoder if path not in audio]
    stepped = [path for path in extended if not path.endswith("_ln")]
    runs = [(Run("shipped", "features"), ["log_mel"]), (Run("tapped", "encoder"), encoder)]
    runs += [(Run("tapped", "audio"), audio), (Run("tapped", "extend", "1 row", None, 0), extended)]
    runs += [(Run("tapped", "step", "1 row", None, position), stepped) for position in (4, 224)]
    runs += [(Run("tapped", "step", "3 rows, reordered", 1, 224), stepped)]
    runs += [(Run("isolated", "encoder"), [path for path in encoder if ".blocks." in path])]
    runs += [(Run("shipped", "encoder"), ["encoder.ln_post"])]
    runs += [(Run("shipped", graph, "1 row", None, 4), ["decoder.logits"]) for graph in ("extend", "step")]
    return [make_row(random, path, run, name) for run, along in runs for path in along for name in inputs]


def make_report(inputs: tuple[str, ...] = (PLAIN, HOSTILE), layers: int = 2) -> dict:
    """A seeded report that passes, as json.loads gives it."""
    rows = make_rows(np.random.default_rng(7), list(inputs), layers)
    kinds = ("extend", "step", "free")
    tokens = [
        {"input": name, "kind": kind, "compared": 29, "equal": 29, "first_different": None, "passed": True}
        for name in inputs
        for kind in kinds
    ]
    return {
        "schema_version": 3,
        "passed": True,
        "dtype": "float32",
        "reference": "WhisperForConditionalGeneration (transformers 5.23.0, torch 2.13.0, float64)",
        "witness": "WhisperForConditionalGeneration (transformers 5.23.0, torch 2.13.0, float32)",
        "not_executed": "",
        "environment": {
            "created": "2026-11-23T01:40:00+00:00",
            "cpu": "AMD EPYC",
            "cpu_features": ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "popcnt", "sse4_1", "sse4_2"],
            "threads": 2,
            "versions": {"python": "3.11.7", "max": "26.7.0", "mojo": "1.2.0", "torch": "2.13.0"},
        },
        "hashes": {name: "0123456789abcdef" * 4 for name in ("model.py", "weights.safetensors", "encoder.mef")},
        "inputs": [
            {"name": name, "seconds": 11.0, "transcript": TRANSCRIPTS.get(name, "Rain in the afternoon.")}
            for name in inputs
        ],
        "weights": {"tensors": 245, "values": 72593920, "different": []},
        "layers": [row for row in rows if row["path"] != "decoder.logits"],
        "logits": [row for row in rows if row["path"] == "decoder.logits"],
        "tokens": {"compared": 29 * len(tokens), "equal": 29 * len(tokens), "rows": tokens},
        "same_bits": [
            {"input": name, "place": place, "compared": 51865, "different": 0}
            for name in inputs
            for place in ("encoder", "step of 1 row at 224")
        ],
        "first_divergent": None,
        "explanation": "everything is within tolerance.",
    }


def make_failing_report() -> dict:
    """A query that diverges on one input, what follows it, figures that are no numbers, tokens and a weight."""
    report = make_report()
    along = [row for row in report["layers"] if row["build"] == "tapped" and row["input"] == HOSTILE]
    start = next(index for index, row in enumerate(along) if row["path"] == DIVERGENT)
    for row, factor in zip(along[start:], [5.3, 1.7, None, 3.1, 1e300, 2.2], strict=False):
        errors = [None, None] if factor is None else [3e-5 * factor, 2e-6 * factor]
        row.update(zip(("max_abs", "rel_rmse"), errors, strict=True), passed=False)
    report["tokens"]["rows"][4].update(equal=11, first_different=5, passed=False)
    report["tokens"]["equal"] -= 18
    report["same_bits"][3]["different"] = 7
    report["weights"]["different"] = [
        {
            "name": f"{DIVERGENT}.weight",
            "source_path": "model.encoder.layers.1.self_attn.q_proj.weight",
            "count": 12,
            "index": [7, 0],
            "value": 0.31,
            "expected": 0.11,
        },
        {
            "name": "decoder.ln.bias",
            "source_path": None,
            "count": 512,
            "index": [],
            "value": None,
            "expected": None,
        },
    ]
    explanation = f"{DIVERGENT} is the first that diverges, in the tapped encoder on {HOSTILE}. Its inputs were good."
    return report | {"passed": False, "first_divergent": dict(along[start]), "explanation": explanation}


def in_data_order(report: dict) -> list[dict]:
    """The rows in the order in which the page numbers them."""
    builds = ["tapped", "isolated", "shipped"]
    rows = report["layers"] + report["logits"]
    return sorted(rows, key=lambda row: (row["path"] != "log_mel", builds.index(row["build"])))


def spectrogram() -> np.ndarray:
    """float32 [80, 3000]: a loud low half for 11 s, then silence."""
    mel = np.full((80, 3000), -0.5, np.float32)
    mel[:40, :1100] = 1.0 + 0.2 * np.sin(np.arange(1100) / 9)
    return mel


# ---------------------------------------------------------------- a browser


class Page:
    """A report that is open in the browser."""

    def __init__(self, browser: webdriver.Chrome, report: dict, path: Path):
        self.browser = browser
        self.report = report
        self.rows = in_data_order(report)
        self.path = path
        self.media()
        self.width(1440)
        self.open()

    def open(self) -> None:
        self.browser.get(self.path.as_uri())

    def run(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def shown(self) -> list[dict]:
        """The rows of the table from top to bottom."""
        orders = self.run("return [...document.querySelectorAll('.rows tr[data-order]')].map(e => +e.dataset.order)")
        return [self.rows[order] for order in orders]

    def width(self, width: int, height: int = 1000, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def media(self, media: str = "", scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        # listeners of a media query are told when the next frame is drawn
        self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def screenshot(self, path: Path) -> np.ndarray:
        """The page, its first 6000 pixels if it is longer, as a file, and as uint8 [height, width, 3]."""
        size = self.browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip}
        path.write_bytes(base64.b64decode(self.browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))
        with av.open(str(path)) as file:
            return next(file.decode(video=0)).to_ndarray(format="rgb24")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    missing = [str(path) for path in (CHROMIUM, CHROMEDRIVER) if not path.exists()]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}: install Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(CHROMEDRIVER)))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def show(browser, tmp_path_factory) -> Callable[[dict], Page]:
    """Opens a report in the browser, with a spectrogram for every input."""

    def show(report: dict) -> Page:
        path = tmp_path_factory.mktemp("page") / "parity.html"
        page = render(report, {each["name"]: spectrogram() for each in report["inputs"]})
        path.write_text(page, encoding="utf-8")
        return Page(browser, report, path)

    return show


@pytest.fixture
def passing(show) -> Page:
    return show(make_report())


@pytest.fixture
def failing(show) -> Page:
    return show(make_failing_report())


# ---------------------------------------------------------------- what it says


def test_names_hide_nothing():
    evil = "evil\x1b[2J\u202e\n\udcff.wav"
    report = make_report(inputs=(evil,))
    report["layers"][0]["source_path"] = "model.\x9b31m"
    page = render(report, {evil: np.zeros((80, 3000), np.float32)})
    page.encode("utf-8")
    shown = "evil\\x1b[2J\\u202e\\n\\udcff.wav"
    assert shown in page and "model.\\\\x9b31m" in page, "in the text, and in the JSON of the rows"
    assert not [each for each in page if each in "\x1b\x9b\u202e" or "\ud800" <= each <= "\udfff"]
    assert '"spectrograms":[{' in page


def test_a_passing_report_says_so_first(passing):
    assert passing.browser.title == "passed · Whisper parity report"
    assert passing.find("header .verdict").text == "✓ passed"
    assert passing.find("header .explanation").text == "everything is within tolerance."
    assert not passing.all("#divergent") and not passing.all("#weights")
    tiles = passing.find(".tiles").text
    count = len(passing.rows)
    worst = max(passing.rows, key=of_limit)
    assert f"{count} of {count} ✓" in tiles and "174 of 174 ✓" in tiles and "72,593,920 values" in tiles
    assert worst["path"] in tiles and share(of_limit(worst)) in tiles and "Closest to its limit" in tiles
    assert "4 of 4 runs ✓" in tiles and "all 207,460 results" in tiles
    assert "✗" not in passing.find("#summary").text


def test_a_failing_report_names_what_diverges_first(failing):
    assert failing.browser.title == "FAILED · Whisper parity report"
    assert failing.find("header .verdict").text == "✗ FAILED"
    divergent = failing.find("#divergent").text
    row = failing.report["first_divergent"]
    figures = ("5.3 times its limit", "1.6e-4 (limit 3.0e-5)", "1.1e-5 (limit 2.0e-6)")
    for text in (DIVERGENT, row["source_path"], *figures, worst_words(row), HOSTILE):
        assert text in divergent
    summary = failing.find("#summary").text
    for text in ("Furthest over its limit", "2 tensors differ", "tapped ✗ FAILED", "shipped ✓ passed", OTHER_BITS):
        assert text in summary
    assert [f"{DIVERGENT}.weight", "7, 0", "0.31"] == [
        failing.texts(f"#weights tbody tr:first-child td:nth-child({column})")[0] for column in (1, 4, 5)
    ]
    assert "✗ step: 11 of 29 tokens equal, first different at index 5" in failing.find("#inputs").text


def test_the_first_divergent_row_can_be_reached_past_any_filter(failing):
    Select(failing.find("#filters select[name=build]")).select_by_value("shipped")
    assert DIVERGENT not in {row["path"] for row in failing.shown()}
    failing.find("#divergent a").click()
    current = failing.find(".rows tr[aria-current=true]")
    assert DIVERGENT in current.text and "first to diverge" in current.text and "✗ FAILED" in current.text
    assert failing.rows[int(current.get_attribute("data-order"))] == failing.report["first_divergent"]
    neighbours = [row for row in failing.rows if row["graph"] == "encoder" and row["build"] == "tapped"]
    assert failing.shown() == [row for row in neighbours if row["input"] == HOSTILE]
    box = failing.run("const r = arguments[0].getBoundingClientRect(); return [r.top, r.bottom, innerHeight]", current)
    assert 0 <= box[0] < box[1] <= box[2]
    assert failing.run("return document.activeElement.textContent") == DIVERGENT


def test_the_summary_has_the_worst_row_of_every_kind(failing):
    expected = [row for row in failing.rows if row["build"] == "tapped" and row["path"].endswith(".1.attn.key")]
    worst = max((row for row in expected if row["path"].startswith("encoder")), key=of_limit)
    kinds = {}
    for line in failing.run(
        "return [...document.querySelectorAll('details.kinds tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    ):
        kinds.setdefault(line[0], line)
    assert kinds["encoder attn.key"][1:7] == ["✗ FAILED", "1.7 times", "none", "5.1e-5", "3.4e-6", worst["path"]]
    assert kinds["encoder attn.value"][2] == "not finite"
    assert kinds["log_mel"][1] == "✓"
    assert {"log_mel", "step logits", "extend logits", "encoder ln_post", "decoder cross_attn.residual"} <= kinds.keys()


def test_names_and_transcripts_are_shown_literally(failing):
    assert failing.texts("#inputs h3")[1].strip().startswith(HOSTILE)
    assert failing.texts("#inputs blockquote") == list(TRANSCRIPTS.values())
    assert HOSTILE in failing.texts("#filters select[name=input] option")
    assert HOSTILE in failing.texts(".rows td.input")
    assert failing.run("return [document.images.length, document.scripts.length]") == [0, 2]


def test_details_of_a_row_open_and_close(passing):
    button = passing.find("#row-3 button")
    row = passing.rows[3]
    button.click()
    details = passing.find("#row-3 + tr.details").text
    for text in (row["source_path"], f"{figure(row['max_abs'])} (limit 3.0e-5)", figure(row["torch_rel_rmse"])):
        assert text in details
    assert button.get_attribute("aria-expanded") == "true"
    button.click()
    assert not passing.all("tr.details") and button.get_attribute("aria-expanded") == "false"


# ---------------------------------------------------------------- sorting and filtering


def in_numbers(text: str) -> list:
    """A key that sorts frame 1000 after frame 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


SORTS = {
    "#": lambda row: row["order"],
    "of its limit": of_limit,
    "max-abs": lambda row: math.inf if row["max_abs"] is None else row["max_abs"],
    "rel. RMSE": lambda row: math.inf if row["rel_rmse"] is None else row["rel_rmse"],
    "verdict": lambda row: row["passed"],
    "largest value": lambda row: row["ref_max_abs"],
    "build": lambda row: row["build"],
    "worst at": lambda row: in_numbers(worst_words(row)),
}


@pytest.mark.parametrize("title", SORTS)
def test_a_column_sorts_both_ways(failing, title):
    header = next(cell for cell in failing.all(".rows th") if cell.text.startswith(title))
    for row, order in zip(failing.rows, range(len(failing.rows)), strict=True):
        row["order"] = order
    seen = {}
    for _ in range(2):
        failing.run("arguments[0].click()", header.find_element("tag name", "button"))
        keys = [SORTS[title](row) for row in failing.shown()]
        seen[header.get_attribute("aria-sort")] = keys
        assert len(keys) == len(failing.rows)
    assert failing.run("return document.querySelectorAll('.rows [aria-sort]').length") == 1
    assert seen["ascending"] == sorted(seen["ascending"])
    assert seen["descending"] == sorted(seen["descending"], reverse=True)
    assert seen["ascending"] != seen["descending"]


def test_paths_sort_by_number(show):
    page = show(make_report((PLAIN,), layers=11))
    page.run("document.querySelector('.rows th[data-name=path] button').click()")
    blocks = [int(found[1]) for row in page.shown() if (found := re.fullmatch(r"encoder\.blocks\.(\d+)", row["path"]))]
    assert blocks == sorted(blocks) and blocks[-1] == 10


def test_what_has_no_figure_sorts_last_both_ways(passing):
    for _ in range(2):
        passing.run("document.querySelector('.rows th[data-name=ratio] button').click()")
        assert [row["path"] for row in passing.shown()[-2:]] == ["log_mel", "log_mel"]


def test_headers_sort_by_keyboard(failing):
    failing.run("document.querySelector('.rows th[data-name=of_limit] button').focus()")
    ActionChains(failing.browser).send_keys(Keys.ENTER).perform()
    assert of_limit(failing.shown()[0]) == math.inf
    ActionChains(failing.browser).send_keys(Keys.TAB, Keys.SPACE).perform()
    assert failing.find(".rows th[data-name=worst_words]").get_attribute("aria-sort") == "ascending"


FILTERS = {
    "text": ({"text": "blocks.1 ATTN"}, lambda row: "blocks.1" in row["path"] and "attn" in row["path"]),
    "source path": ({"text": "layers.0.mlp"}, lambda row: ".blocks.0.mlp" in row["path"]),
    "position": ({"text": "step at 224"}, lambda row: row["graph"] == "step" and row["position"] == 224),
    "case": ({"text": "3 rows, reordered"}, lambda row: row["case"] == "3 rows, reordered"),
    "inside": ({"text": "blocks.0.attn.out"}, lambda row: row["path"].endswith("coder.blocks.0.attn.residual")),
    "build": ({"build": "isolated"}, lambda row: row["build"] == "isolated"),
    "graph": ({"graph": "step"}, lambda row: row["graph"] == "step"),
    "input": ({"input": HOSTILE}, lambda row: row["input"] == HOSTILE),
    "failed": ({"failed": True}, lambda row: not row["passed"]),
    "together": (
        {"text": "query", "build": "tapped", "graph": "encoder", "input": HOSTILE, "failed": True},
        lambda row: row["path"] == DIVERGENT and row["build"] == "tapped" and row["input"] == HOSTILE,
    ),
    "nothing": ({"text": "no such path"}, lambda row: False),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_leaves_exactly_its_rows(failing, name):
    settings, wanted = FILTERS[name]
    for control, value in settings.items():
        field = failing.find(f"#filters [name={control}]")
        if control == "text":
            field.send_keys(value)
        elif control == "failed":
            field.click()
        else:
            Select(field).select_by_value(value)
    expected = [row for row in failing.rows if wanted(row)]
    assert failing.shown() == expected
    assert failing.find("#count").text.startswith(f"{len(expected)} of {len(failing.rows)} values")
    failing.find("#filters button").click()
    assert failing.shown() == failing.rows


def test_a_long_table_shows_its_rest_when_asked(show):
    inputs = tuple(f"clip {number}.wav" for number in range(20))
    page = show(make_report(inputs, layers=3))
    assert len(page.rows) > 4000
    assert page.path.stat().st_size < 250 * len(page.rows) + 20 * 120_000
    assert len(page.shown()) == 1000
    button = page.find("button.more")
    assert button.text == f"Show all {len(page.rows)} values"
    button.click()
    assert page.shown() == page.rows and not button.is_displayed()


# ---------------------------------------------------------------- charts and pictures


def points(page: Page, side: str) -> list:
    return page.all(f".chart[data-side={side}] > svg :is(circle, path.wrong)")


def test_hovering_a_point_shows_its_row(passing):
    row = [row for row in passing.rows if row["graph"] == "encoder" and row["input"] == PLAIN][5]
    ActionChains(passing.browser).move_to_element(points(passing, "encoder")[5]).perform()
    readout = passing.find(".chart[data-side=encoder] .readout")
    assert row["path"] in readout.text and figure(row["rel_rmse"]) in readout.text and worst_words(row) in readout.text
    readout.find_element("tag name", "a").click()
    assert row["path"] in passing.find(".rows tr[aria-current=true]").text


def test_arrow_keys_move_along_a_chart(passing):
    passing.find(".chart[data-side=decoder] svg").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    along = [row["path"] for row in passing.rows if row["graph"] in ("audio", "extend") and row["input"] == PLAIN]
    assert along[2] in passing.find(".chart[data-side=decoder] .readout").text


def test_a_chart_begins_where_it_diverges(failing):
    controls = [Select(failing.find(selector)).first_selected_option.text for selector in (
        "#chart-controls [name=input]", ".chart[data-side=encoder] [name=run]")]
    assert controls == [f"{HOSTILE} (6 failed)", "tapped encoder (6 failed)"]
    crosses = failing.all(".chart[data-side=encoder] > svg path.wrong")
    chart = failing.find(".chart[data-side=encoder] > svg").rect
    assert len(crosses) == 6
    assert all(chart["y"] <= cross.rect["y"] <= chart["y"] + chart["height"] for cross in crosses)


def test_controls_change_what_a_chart_draws(failing):
    def line() -> str:
        return failing.find(".chart[data-side=decoder] svg path.max").get_attribute("d")

    seen = {line()}
    for selector, value in [
        ("#chart-controls [name=figure]", "max_abs"),
        ("#chart-controls [name=input]", PLAIN),
        ("#chart-controls [name=input]", ""),
        (".chart[data-side=decoder] [name=run]", "tapped step of 3 rows, reordered, row 1 at 224"),
    ]:
        Select(failing.find(selector)).select_by_value(value)
        seen.add(line())
    assert len(seen) == 5 and all(path.startswith("M") and "NaN" not in path for path in seen)


@pytest.mark.parametrize("value", [None, 0.0, 1e300])
def test_a_chart_of_unusable_figures_is_drawn(show, value):
    report = make_report((PLAIN,))
    for row in report["layers"]:
        row.update(max_abs=value, rel_rmse=value, torch_max_abs=value, torch_rel_rmse=value)
    page = show(report)
    for side in ("encoder", "decoder"):
        assert points(page, side)
        assert "NaN" not in page.find(f".chart[data-side={side}] svg").get_attribute("innerHTML")


def test_a_report_without_witness_and_with_shipped_rows_alone(show):
    report = make_report((PLAIN,)) | {"witness": None, "weights": None}
    for part in ("layers", "logits"):
        report[part] = [
            row | {"torch_max_abs": None, "torch_rel_rmse": None}
            for row in report[part]
            if row["build"] == "shipped" and row["path"] != "log_mel"
        ]
    page = show(report)
    assert page.shown() == page.rows and len(points(page, "encoder")) == 1
    assert "not audited" in page.find(".tiles").text and "torch float32" not in page.find("#charts").text


def test_a_spectrogram_shows_the_sound_and_where_a_row_is_worst(passing):
    levels = passing.run(
        """const canvas = document.querySelector(".card canvas"), context = canvas.getContext("2d");
        const sum = (x, y) => context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data.slice(0, 3)
          .reduce((a, b) => a + b);
        return [canvas.width, canvas.height, sum(0.2, 0.9), sum(0.2, 0.1), sum(0.8, 0.9)]"""
    )
    assert levels[:2] == [1000, 80]
    assert levels[2] > 300 > 50 > levels[3] == levels[4]
    order, row = next((n, row) for n, row in enumerate(passing.rows) if row["path"] == "encoder.positional_embedding")
    ActionChains(passing.browser).move_to_element(passing.find(f"#row-{order} td")).perform()
    marks = passing.run("return [...document.querySelectorAll('.picture .worst')].map(e => [e.hidden, e.style.left])")
    assert [hidden for hidden, _ in marks] == [False, True]
    assert float(marks[0][1].rstrip("%")) == pytest.approx(row["worst"][1] / 15, abs=0.1)


# ---------------------------------------------------------------- a page by itself


def test_it_asks_nobody_anything(failing):
    for log in ("performance", "browser"):
        failing.browser.get_log(log)
    failing.open()
    failing.find("#divergent a").click()
    messages = [json.loads(entry["message"])["message"] for entry in failing.browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert failing.path.as_uri() in asked
    assert set(asked) <= {failing.path.as_uri(), "data:,"}
    assert failing.run("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert [entry for entry in failing.browser.get_log("browser") if entry["level"] != "INFO"] == []


def test_the_policy_refuses_requests(passing):
    refused = passing.browser.execute_async_script(
        """const done = arguments[0];
        document.addEventListener("securitypolicyviolation", event => done(event.effectiveDirective), { once: true });
        fetch("http://127.0.0.1:9/").catch(() => {});"""
    )
    assert refused == "connect-src"
    passing.browser.get_log("browser")


# ---------------------------------------------------------------- screens and paper


CONTRAST = """
const channels = text => text.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92
  : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const background = node => {
  for (let each = node; each; each = each.parentElement) {
    const colour = channels(getComputedStyle(each).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const written = node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
return [...document.body.querySelectorAll("*")]
  .filter(node => written(node) && node.checkVisibility() && !["SCRIPT", "OPTION"].includes(node.tagName))
  .map(node => {
    const style = getComputedStyle(node);
    const text = luminance(channels(node.namespaceURI.endsWith("svg") ? style.fill : style.color));
    const behind = luminance(background(node));
    return [(Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05), node.tagName + " " + node.textContent];
  });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(failing, tmp_path, scheme):
    failing.media(scheme=scheme)
    failing.find("#divergent a").click()
    contrasts = failing.run(CONTRAST)
    assert len(contrasts) > 1000
    assert [(round(ratio, 2), text[:60]) for ratio, text in contrasts if ratio < 4.5] == []
    body = failing.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", body))) < 150) == (scheme == "dark")
    assert_drawn(failing.screenshot(tmp_path / f"{scheme}.png"))


@pytest.mark.parametrize("report", [make_report, make_failing_report])
def test_a_phone_does_not_scroll_sideways(show, tmp_path, report):
    page = show(report())
    page.width(390, 844, mobile=True)
    page.open()
    page.run("for (const each of document.querySelectorAll('details')) each.open = true")
    page.run("document.querySelector('.rows .path').click()")
    page.find(".chart svg").send_keys(Keys.ARROW_RIGHT)
    assert page.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    drawn = page.screenshot(tmp_path / "phone.png")
    assert drawn.shape[1] == 390
    assert_drawn(drawn)


def test_paper_has_every_row_and_no_controls(show, tmp_path):
    page = show(make_report(tuple(f"clip {number}.wav" for number in range(7))))
    assert len(page.rows) > len(page.shown()) == 1000
    page.media("print")
    assert page.shown() == page.rows
    assert all(each.is_displayed() for each in (page.find(".rows td.path, .rows tbody td"), page.find(".verdict")))
    for selector in (".controls", ".readout", "button.more", "select", "input"):
        assert not any(each.is_displayed() for each in page.all(selector)), selector
    clipped = page.run("const r = document.querySelector('.rows'); return r.scrollHeight - r.clientHeight")
    assert clipped <= 1
    assert page.run("return [...document.querySelectorAll('details')].every(each => each.open)")
    assert_drawn(page.screenshot(tmp_path / "print.png"))
    page.media()
    page.open()
    options = {"printBackground": True, "preferCSSPageSize": True}
    pdf = base64.b64decode(page.browser.execute_cdp_cmd("Page.printToPDF", options)["data"])
    (tmp_path / "print.pdf").write_bytes(pdf)
    sheets = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert sheets > len(page.rows) / 80


def test_a_desktop_screen_is_drawn(failing, tmp_path):
    drawn = failing.screenshot(tmp_path / "desktop.png")
    assert drawn.shape[1] >= 1400
    assert_drawn(drawn)


def assert_drawn(pixels: np.ndarray) -> None:
    """Every screenful of uint8 [height, width, 3] has something on it, in more than a few colours."""
    colours = np.unique(pixels.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32))
    assert len(colours) > 200
    for top in range(0, len(pixels) - 400, 400):
        assert pixels[top : top + 400].std() > 2, f"nothing between {top} and {top + 400}"


# ---------------------------------------------------------------- words, without a browser


@pytest.mark.parametrize(
    ("path", "graph", "worst", "words"),
    [
        ("log_mel", "features", [12, 609], "frame 609 (6.09 s), mel channel 12"),
        ("encoder.conv1.gelu", "encoder", [0, 313, 145], "frame 313 (3.13 s), channel 145"),
        ("encoder.positional_embedding", "encoder", [0, 313, 145], "frame 313 (6.26 s), channel 145"),
        ("encoder.ln_post", "encoder", [0, 1499, 0], "frame 1499 (29.98 s), channel 0"),
        ("decoder.blocks.0.cross_attn.key", "audio", [0, 50, 3], "frame 50 (1.00 s), channel 3"),
        ("decoder.blocks.0.cross_attn.query", "extend", [0, 12, 7], "token 12, channel 7"),
        ("decoder.blocks.0.attn.key", "step", [0, 224, 7], "token 224, channel 7"),
        ("decoder.logits", "extend", [0, 11, 2541], "token 11, logit 2541"),
    ],
)
def test_worst_positions_in_words(path, graph, worst, words):
    assert worst_words({"path": path, "graph": graph, "worst": worst}) == words


def test_kernels_in_words():
    assert kernel_words({"kernel": "linear", "inside": []}) == "linear"
    assert kernel_words({"kernel": "linear_add", "inside": ["a.out"]}) == "linear_add; a.out exists only inside"
    assert kernel_words({"kernel": "step_block", "inside": ["a", "b"]}) == "step_block; a, b exist only inside"


@pytest.mark.parametrize(
    ("value", "of_the_limit", "room"),
    [
        (0.0, "0 %", "exact"),
        (1e-5, "under 1 %", "1.0e5 ×"),
        (0.012, "1 %", "83 ×"),
        (0.41, "41 %", "2.4 ×"),
        (1.0, "100 %", "1.0 ×"),
        (1.7, "1.7 times", "none"),
        (123.4, "123 times", "none"),
        (1e300, "1.0e300 times", "none"),
        (math.inf, "not finite", "none"),
    ],
)
def test_fractions_of_a_limit_in_words(value, of_the_limit, room):
    assert (share(value), margin(value)) == (of_the_limit, room)


def test_figures_in_words():
    assert figure(None) == "not finite" and figure(3.14e-6) == "3.1e-6" and figure(0) == "0"


def test_a_spectrogram_keeps_the_loudest_frame_of_every_column():
    report = make_report((PLAIN,))
    mel = np.zeros((80, 2999), np.float32)
    mel[3, 1502] = 2.0
    page = render(report, {PLAIN: mel})
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    picture = data["spectrograms"][0]
    pixels = np.frombuffer(base64.b64decode(picture["bytes"]), np.uint8).reshape(80, picture["columns"])
    assert picture["columns"] == 1000
    assert np.argwhere(pixels).tolist() == [[3, 500]] and pixels.max() == 255


def test_an_input_without_spectrogram_and_a_constant_one_are_rendered():
    report = make_report()
    page = render(report, {PLAIN: np.zeros((80, 3000), np.float32)})
    assert json.loads(re.search(r'id="data">(.*?)</script>', page)[1])["spectrograms"][1] is None
