"""Transcripts as txt, vtt, srt, tsv and json files: the bytes that openai-whisper's writers give."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from whisper2max.errors import UsageError
from whisper2max.runtime.transcribe import Segment


def to_result(segments: Iterable[Segment], language: str) -> dict:
    """The segments as the dictionary that openai-whisper's `transcribe` returns: text, segments, language."""
    rows = [asdict(segment) for segment in segments]
    return {"text": "".join(row["text"] for row in rows), "segments": rows, "language": language}


def format_timestamp(seconds: float, always_include_hours: bool = False, decimal_marker: str = ".") -> str:
    """Seconds as [HH:]MM:SS.mmm."""
    minutes, milliseconds = divmod(round(seconds * 1000.0), 60_000)
    hours, minutes = divmod(minutes, 60)
    hours_marker = f"{hours:02d}:" if always_include_hours or hours else ""
    return f"{hours_marker}{minutes:02d}:{milliseconds // 1000:02d}{decimal_marker}{milliseconds % 1000:03d}"


def render_txt(result: dict) -> str:
    return "".join(f"{segment['text'].strip()}\n" for segment in result["segments"])


def render_vtt(result: dict) -> str:
    cues = _cues(result, always_include_hours=False, decimal_marker=".")
    return "WEBVTT\n\n" + "".join(f"{span}\n{text}\n\n" for span, text in cues)


def render_srt(result: dict) -> str:
    cues = _cues(result, always_include_hours=True, decimal_marker=",")
    return "".join(f"{number}\n{span}\n{text}\n\n" for number, (span, text) in enumerate(cues, start=1))


def render_tsv(result: dict) -> str:
    lines = ["start\tend\ttext\n"]
    for segment in result["segments"]:
        start, end = round(1000 * segment["start"]), round(1000 * segment["end"])
        text = segment["text"].strip().replace("\t", " ")
        lines.append(f"{start}\t{end}\t{text}\n")
    return "".join(lines)


def render_json(result: dict) -> str:
    return json.dumps(result)


RENDERERS: dict[str, Callable[[dict], str]] = {
    "txt": render_txt,
    "vtt": render_vtt,
    "srt": render_srt,
    "tsv": render_tsv,
    "json": render_json,
}
OUTPUT_FORMATS = (*RENDERERS, "all")


def write(
    result: dict, audio_path: str | os.PathLike[str], output_dir: str | os.PathLike[str], output_format: str
) -> list[Path]:
    """Writes a transcript to files named after the recording; each appears complete or not at all.

    Args:
        result: text, segments and language, as `to_result` gives them.
        audio_path: of the recording; speech.mp3 becomes speech.txt.
        output_dir: created if missing.
        output_format: one of `OUTPUT_FORMATS`.

    Returns:
        The paths written.

    Raises:
        UsageError: an unknown format, or a directory that cannot be written to.
    """
    if output_format not in OUTPUT_FORMATS:
        raise UsageError(f"output format {output_format!r} is unknown; expected {', '.join(OUTPUT_FORMATS)}.")
    formats = tuple(RENDERERS) if output_format == "all" else (output_format,)
    stem, paths = os.path.splitext(os.path.basename(audio_path))[0], []
    try:
        os.makedirs(output_dir, exist_ok=True)
        for extension in formats:
            path = Path(output_dir, f"{stem}.{extension}")
            _write_whole(path, RENDERERS[extension](result).encode())
            paths.append(path)
    except OSError as error:
        raise UsageError(
            f"The transcript cannot be written to {output_dir} ({error.strerror or error}); "
            "give another directory with --output_dir."
        ) from error
    return paths


def _cues(result: dict, always_include_hours: bool, decimal_marker: str) -> list[tuple[str, str]]:
    cues = []
    for segment in result["segments"]:
        start, end = (
            format_timestamp(segment[edge], always_include_hours, decimal_marker) for edge in ("start", "end")
        )
        cues.append((f"{start} --> {end}", segment["text"].strip().replace("-->", "->")))
    return cues


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
