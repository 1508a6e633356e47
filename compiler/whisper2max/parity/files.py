"""parity.json and parity.html, as they lie in an artifact or where a user asks for them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whisper2max.parity.html import render
from whisper2max.parity.report import ParityReport
from whisper2max.runtime.features import HOP_LENGTH, log_mel

REPORTS = ("parity.json", "parity.html")


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
    texts = {"parity.json": _text(found), "parity.html": render(found, spectrograms)}
    for name, text in texts.items():
        (directory / name).unlink(missing_ok=True)
        (directory / name).write_text(text, encoding="utf-8")


def _text(found: dict[str, Any]) -> str:
    """JSON with a line for every field and for every entry of a list: a row is a line, and can be searched for."""
    fields = []
    for name, value in found.items():
        entries = ",\n  ".join(map(json.dumps, value)) if isinstance(value, list) else ""
        fields.append(f'"{name}": ' + (f"[\n  {entries}\n ]" if entries else json.dumps(value)))
    return "{\n " + ",\n ".join(fields) + "\n}\n"


def _spectrogram(samples: np.ndarray) -> np.ndarray:
    return log_mel(samples[: 3000 * HOP_LENGTH], 80)
