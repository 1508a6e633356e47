"""The recorded clips, which are not part of the repository, and a sanity check of what is heard in them."""

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Far above what any of these programs makes of these clips; a text beyond it is another text.
SANE_WER = 0.3


@dataclass(frozen=True)
class Clip:
    """One row of INDEX.tsv.

    Attributes:
        file: name in the folder.
        transcript: what is said.
        trusted: whether the transcript is exact enough for word error rates.
        language: code.
    """

    file: str
    transcript: str
    trusted: bool
    language: str


def audio_folder(named: str | None) -> Path:
    """The folder of clips: the one named, $WHISPER2MAX_AUDIO, or ../shared/audio beside the repository."""
    folder = Path(named or os.environ.get("WHISPER2MAX_AUDIO") or ROOT.parent / "shared" / "audio")
    if not (folder / "INDEX.tsv").is_file():
        raise SystemExit(
            f"no recorded clips: there is no INDEX.tsv in {folder}. Name a folder with clips and their INDEX.tsv "
            "by --audio or in $WHISPER2MAX_AUDIO; CONTRIBUTING.md says what is in it."
        )
    return folder


def clips(audio: Path) -> list[Clip]:
    """Every clip of the folder."""
    with (audio / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [Clip(row["file"], row["reference"], row["trust"] == "A", row["language"]) for row in rows]


def trusted_english(audio: Path) -> list[Clip]:
    """The clips that word error rates are measured on."""
    return [clip for clip in clips(audio) if clip.trusted and clip.language == "en"]


def check_text(clip: Clip, text: str) -> None:
    """Raises a ValueError unless the text is roughly what is said in the clip."""
    rate = rough_wer(clip.transcript, text)
    if not text.strip() or rate > SANE_WER:
        raise ValueError(f"{clip.file}: {rate:.0%} of the words are wrong in {text[:200]!r}")


def rough_wer(reference: str, text: str) -> float:
    """Word error rate after lower-casing and dropping punctuation; light enough for a sanity check."""
    wanted, got = (re.findall(r"[\w']+", each.lower()) for each in (reference, text))
    distances = list(range(len(got) + 1))
    for row, word in enumerate(wanted, start=1):
        diagonal, distances[0] = distances[0], row
        for column, other in enumerate(got, start=1):
            diagonal, distances[column] = (
                distances[column],
                min(distances[column] + 1, distances[column - 1] + 1, diagonal + (word != other)),
            )
    return distances[-1] / max(len(wanted), 1)
