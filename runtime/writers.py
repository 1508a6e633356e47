"""Transcripts as txt, vtt, srt, tsv and json files: the bytes that openai-whisper's writers give."""

import json
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from whisper2max.core.errors import OutputError, UsageError
from whisper2max.runtime.results import Segment

# What Linux allows for the name of a file, in bytes.
LONGEST_NAME = 255


def to_result(segments: Iterable[Segment], language: str | None) -> dict:
    """The segments as the dictionary that openai-whisper's `transcribe` returns: text, segments, language.

    The language is None where nothing that was heard decides one.
    """
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


def transcript_paths(
    audio_path: str | os.PathLike[str], output_dir: str | os.PathLike[str], output_format: str
) -> dict[str, Path]:
    """The file of each format that `write` makes for a recording: speech.mp3 becomes speech.txt.

    Raises:
        UsageError: an unknown format, or a name that is too long for any file system.
    """
    if output_format not in OUTPUT_FORMATS:
        raise UsageError(f"output format {output_format!r} is unknown; expected {', '.join(OUTPUT_FORMATS)}.")
    formats = tuple(RENDERERS) if output_format == "all" else (output_format,)
    stem = os.path.splitext(os.path.basename(audio_path))[0]
    paths = {extension: Path(output_dir, f"{stem}.{extension}") for extension in formats}
    for path in paths.values():
        if len(os.fsencode(path.name)) > LONGEST_NAME:
            raise UsageError(
                f"The name of {os.fspath(audio_path)} is so long that its transcript's, with {path.suffix}, would have "
                f"more than {LONGEST_NAME} bytes; rename the recording, or choose a format with a shorter extension."
            )
    return paths


def require_writable(directory: str | os.PathLike[str], option: str = "--output_dir") -> None:
    """Tries, before any work, to write in a directory that may have to be made; leaves everything as it was.

    Args:
        directory: where files are to be written later.
        option: which names it, for the message.

    Raises:
        OutputError: it cannot be made, or nothing can be written there.
    """
    path = Path(os.path.abspath(directory))
    missing = [each for each in (path, *path.parents) if not os.path.exists(each)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        partial = _partial(path)
        partial.touch(exist_ok=False)
        partial.unlink()
    except OSError as error:
        raise _unwritable(directory, option, error) from error
    finally:
        for each in missing:
            with suppress(OSError):
                each.rmdir()


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
        UsageError: an unknown format, or a name that is too long for any file system.
        OutputError: a directory that cannot be written to.
    """
    paths = transcript_paths(audio_path, output_dir, output_format)
    try:
        os.makedirs(output_dir, exist_ok=True)
        for extension, path in paths.items():
            _write_whole(path, RENDERERS[extension](result).encode())
    except OSError as error:
        raise _unwritable(output_dir, "--output_dir", error) from error
    return list(paths.values())


def _unwritable(directory: str | os.PathLike[str], option: str, error: OSError) -> OutputError:
    return OutputError(
        f"Nothing can be written to {os.fspath(directory)} ({error.strerror or error}); give another directory with "
        f"{option}, or make room in this one."
    )


def _cues(result: dict, always_include_hours: bool, decimal_marker: str) -> list[tuple[str, str]]:
    cues = []
    for segment in result["segments"]:
        start, end = (
            format_timestamp(segment[edge], always_include_hours, decimal_marker) for edge in ("start", "end")
        )
        cues.append((f"{start} --> {end}", segment["text"].strip().replace("-->", "->")))
    return cues


def _write_whole(path: Path, content: bytes) -> None:
    partial = _partial(path.parent)
    try:
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(directory: str | os.PathLike[str]) -> Path:
    """A name for a file in the making; short, where the final name may be the longest that there is."""
    return Path(directory, f".{secrets.token_hex(4)}")
