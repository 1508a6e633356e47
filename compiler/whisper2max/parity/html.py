"""parity.json, and parity.html: the same as one file that a browser opens without asking anything else.

The page is for screen and paper. Verdict and summary are in it as text. Rows are embedded as columns of numbers and
spectrograms as bytes, from which the script of the template draws charts, table and pictures.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import whisper2max.templates
from whisper2max.core.printable import printable
from whisper2max.parity.figures import Place, of_limit
from whisper2max.parity.report import ParityReport, kind_of
from whisper2max.runtime.features import HOP_LENGTH, log_mel

REPORTS = ("parity.json", "parity.html")
TEMPLATES = Path(whisper2max.templates.__path__[0])
MAX_COLUMNS = 1000

BUILDS = {
    "shipped": "The graphs that ship",
    "tapped": "Every value on the way, from the shipped kernels with it as an extra output",
    "isolated": "Blocks by themselves, fed the reference's own inputs",
}
_DATA_ORDER = ("tapped", "isolated", "shipped")
_TEXTS = ("path", "source_path", "kernel_words", "build", "graph", "place", "input", "shape_words", "worst_words")
_NUMBERS = (
    "max_abs",
    "rel_rmse",
    "of_limit",
    "ref_max_abs",
    "ref_min",
    "ref_max",
    "torch_max_abs",
    "torch_rel_rmse",
    "kl",
    "worst_seconds",
)


def write_report(directory: Path, report: ParityReport, inputs: Sequence[tuple[str, np.ndarray]]) -> None:
    """Write both files; older ones are replaced, never written through a hard link.

    Args:
        directory: made if it is missing.
        report: what was found.
        inputs: names, and float32 samples at 16 kHz or a log-mel spectrogram [n_mels, frames].
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = report.to_dict()
    spectrograms = {name: values if values.ndim == 2 else _spectrogram(values) for name, values in inputs}
    texts = {"parity.json": _json(found), "parity.html": render(found, spectrograms)}
    for name, text in texts.items():
        (directory / name).unlink(missing_ok=True)
        (directory / name).write_text(text, encoding="utf-8")


def _json(found: dict[str, Any]) -> str:
    """JSON with a line for every field and for every entry of a list: a row is a line, and can be searched for."""
    fields = []
    for name, value in found.items():
        entries = ",\n  ".join(map(json.dumps, value)) if isinstance(value, list) else ""
        fields.append(f'"{name}": ' + (f"[\n  {entries}\n ]" if entries else json.dumps(value)))
    return "{\n " + ",\n ".join(fields) + "\n}\n"


def _spectrogram(samples: np.ndarray) -> np.ndarray:
    return log_mel(samples[: 3000 * HOP_LENGTH], 80)


def render(report: Mapping[str, Any], spectrograms: Mapping[str, np.ndarray]) -> str:
    """The page of one report.

    Args:
        report: parity.json, parsed; schema version 3 (docs/parity.md).
        spectrograms: by name of the input, log-mel float32 [n_mels, frames] with 10 ms frames. An input without one
            gets no picture.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"figure": figure, "share": share, "beside_limit": beside_limit, "margin": margin}
    report = _printable(report)
    spectrograms = {printable(name): spectrogram for name, spectrogram in spectrograms.items()}
    rows = _rows(report)
    first = report["first_divergent"]
    divergent = None if first is None else next(row for row in rows if first.items() <= row.items())
    data = {
        "rows": _columns(rows),
        "divergent": divergent and divergent["order"],
        "inputs": [each["name"] for each in report["inputs"]],
        "spectrograms": [_picture(spectrograms.get(each["name"])) for each in report["inputs"]],
    }
    return environment.get_template("parity.html.j2").render(
        report=report,
        divergent=divergent,
        worst=max(rows, key=lambda row: row["of_limit"], default=None),
        within=sum(row["passed"] for row in rows),
        compared=len(rows),
        groups=_groups(rows),
        tokens={each["name"]: _token_rows(report, each["name"]) for each in report["inputs"]},
        data=_script_json(data),
    )


def _printable(value: Any) -> Any:
    """A value of the report whose names, which come from files, hide nothing; what was said is left as it is."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {name: each if name == "transcript" else _printable(each) for name, each in value.items()}
    return list(map(_printable, value)) if isinstance(value, list | tuple) else value


def worst_words(row: Mapping[str, Any]) -> str:
    """Where the largest difference of a row is: "frame 313 (6.26 s), channel 145", "token 12, channel 7"."""
    *_, place, channel = row["worst"]
    seconds = worst_seconds(row)
    if row["path"] == "log_mel":
        return f"frame {channel} ({seconds:.2f} s), mel channel {place}"
    kind = "logit" if row["path"] == "decoder.logits" else "channel"
    where = f"token {place}" if seconds is None else f"frame {place} ({seconds:.2f} s)"
    return f"{where}, {kind} {channel}"


def kernel_words(row: Mapping[str, Any]) -> str:
    """The kernel of a row, and what it stands for: "linear_add; encoder.blocks.0.attn.out exists only inside"."""
    if not row["inside"]:
        return row["kernel"]
    verb = "exists" if len(row["inside"]) == 1 else "exist"
    return f"{row['kernel']}; {', '.join(row['inside'])} {verb} only inside"


def worst_seconds(row: Mapping[str, Any]) -> float | None:
    """Time of the largest difference of a row in the recording; None where rows are tokens.

    Frames are 10 ms up to conv1 and 20 ms after conv2; keys and values of cross-attention have frames too.
    """
    *_, place, channel = row["worst"]
    if row["path"] == "log_mel":
        return channel / 100
    if row["path"] == "encoder.conv1.gelu":
        return place / 100
    return place / 50 if row["graph"] in ("encoder", "audio") else None


def figure(value: float | None) -> str:
    """An error with two digits: "3.1e-6"; null stands for what was not finite."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def share(value: float) -> str:
    """An error as a fraction of its limit: "41 %" up to the limit, "3.2 times" above it."""
    if not math.isfinite(value):
        return "not finite"
    if value > 1:
        return f"{_times(value)} times"
    return f"{100 * value:.0f} %" if value >= 0.01 or value == 0 else "under 1 %"


def beside_limit(value: float) -> str:
    """The same as part of a sentence: "41 % of its limit", "3.2 times its limit"."""
    if not math.isfinite(value):
        return "not finite"
    return f"{share(value)} its limit" if value > 1 else f"{share(value)} of its limit"


def margin(value: float) -> str:
    """How many times larger an error could be before it reached its limit: "2.4 ×"."""
    if value == 0:
        return "exact"
    return "none" if value > 1 else f"{_times(1 / value)} ×"


def _times(factor: float) -> str:
    if factor >= 1000:
        return figure(factor)
    return f"{factor:.1f}" if factor < 10 else f"{factor:.0f}"


def _rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All rows in data order, logits after what leads to them, with what the page shows besides their fields."""
    rows = sorted(
        [*report["layers"], *report["logits"]],
        key=lambda row: (row["path"] != "log_mel", _DATA_ORDER.index(row["build"])),
    )
    return [
        row
        | {
            "order": order,
            "of_limit": of_limit(row["max_abs"], row["rel_rmse"], row["tolerance"]),
            "place": Place(*(row[field.name] for field in fields(Place))).words,
            "kernel_words": kernel_words(row),
            "shape_words": " × ".join(map(str, row["shape"])),
            "worst_words": worst_words(row),
            "worst_seconds": worst_seconds(row),
        }
        for order, row in enumerate(rows)
    ]


def _groups(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By build, what it is, and the row closest to its limit of every kind of value, in data order."""
    groups = []
    for build, title in BUILDS.items():
        kinds: dict[str, dict[str, Any]] = {}
        for row in (row for row in rows if row["build"] == build):
            kind = _kind(row)
            if kind not in kinds or row["of_limit"] > kinds[kind]["of_limit"]:
                kinds[kind] = row
        if kinds:
            worst = max(kinds.values(), key=lambda row: row["of_limit"])
            failed = not all(row["passed"] for row in kinds.values())
            groups.append({"build": build, "title": title, "kinds": kinds, "worst": worst, "failed": failed})
    return groups


def _kind(row: Mapping[str, Any]) -> str:
    """The kind of a value; what ships is told apart by graph, "step logits"."""
    kind = kind_of(row["path"])
    return kind.replace("decoder", row["graph"]) if row["build"] == "shipped" else kind


def _token_rows(report: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [row for row in report["tokens"]["rows"] if row["input"] == name]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as columns: a text column lists its different texts and an index, figures have four digits."""
    numbers = {name: [_rounded(row[name]) for row in rows] for name in _NUMBERS}
    numbers["passed"] = [int(row["passed"]) for row in rows]
    numbers["off_cosine"] = [None if row["cosine"] is None else _rounded(1 - row["cosine"]) for row in rows]
    for name in ("max_abs", "rel_rmse"):
        numbers[f"limit_{name}"] = [_rounded(row["tolerance"][name]) for row in rows]
    for end, name in enumerate(("variance_min", "variance_max")):
        numbers[name] = [_rounded(row["variance"] and row["variance"][end]) for row in rows]
    return {
        "count": len(rows),
        "texts": {name: _indexed([row[name] for row in rows]) for name in _TEXTS},
        "numbers": numbers,
    }


def _indexed(texts: Sequence[str | None]) -> dict[str, list]:
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return {"values": list(numbers), "index": [numbers[text] for text in texts]}


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _picture(spectrogram: np.ndarray | None) -> dict[str, Any] | None:
    """At most MAX_COLUMNS columns, each the largest of its frames, as bytes from the quietest to the loudest value."""
    if spectrogram is None:
        return None
    n_mels, frames = spectrogram.shape
    width = -(-frames // MAX_COLUMNS)
    padded = np.pad(spectrogram, ((0, 0), (0, -frames % width)), mode="edge")
    columns = padded.reshape(n_mels, -1, width).max(axis=2)
    quietest, loudest = columns.min(), columns.max()
    scaled = (columns - quietest) * (255 / max(loudest - quietest, 1e-9))
    return {
        "n_mels": n_mels,
        "columns": columns.shape[1],
        "seconds": frames / 100,
        "bytes": base64.b64encode(scaled.round().astype(np.uint8).tobytes()).decode(),
    }


def _script_json(data: Any) -> str:
    """JSON that no HTML parser leaves: ASCII, so without U+2028, and without "<"."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
