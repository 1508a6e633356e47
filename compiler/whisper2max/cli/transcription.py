"""Recordings one after the other: their text to standard output, files where asked for, and every failure named."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper2max.cli.failures import FAULT, explain
from whisper2max.cli.terminal import say, say_traceback, show_text
from whisper2max.core.errors import ArtifactError, AudioError, OutputError, UsageError
from whisper2max.core.printable import printable
from whisper2max.runtime.audio import AudioInput
from whisper2max.runtime.languages import AUTO, language_code
from whisper2max.runtime.model import Model
from whisper2max.runtime.writers import to_result, transcript_paths, write

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Files:
    """Transcript files that were asked for.

    Attributes:
        directory: where they are written.
        format: a name of `writers.OUTPUT_FORMATS`.
    """

    directory: Path
    format: str


def check_arguments(artifact: Path, recordings: Sequence[str], model: str | None, language: str | None) -> None:
    """Answers, before any work, calls that other programs for Whisper would understand and this one does not.

    Args:
        artifact: the first argument.
        recordings: the others.
        model: of an option --model, which there is none of here.
        language: of the option --language.

    Raises:
        UsageError: the artifact does not come first, no recording is named, or Whisper does not know the language.
    """
    if model is not None:
        raise UsageError(
            f"transcribe has no --model: an artifact, such as `whisper2max convert --size {model}` makes, stands "
            "before the recordings, as in `whisper2max transcribe artifacts/base speech.mp3`."
        )
    if artifact.is_file():
        raise UsageError(
            f"{artifact} is a file; the artifact, the directory that convert wrote, stands before the recordings: "
            f"`whisper2max transcribe artifacts/base {artifact}`."
        )
    if not recordings:
        raise UsageError(
            f"There is no recording after {artifact}: `whisper2max transcribe ARTIFACT AUDIO...`; - is standard input."
        )
    if recordings.count(STANDARD_INPUT) > 1:
        raise UsageError("- is given twice; standard input can be read once.")
    if language is not None and language.strip().lower() != AUTO:
        language_code(language)


def plan(recordings: Sequence[str], files: Files) -> None:
    """Checks, before any work, that every transcript gets a path of its own.

    Raises:
        UsageError: two recordings would be written to one file, a recording would be written over, or a name is too
            long.
    """
    owners: dict[str, int] = {}
    for number, recording in enumerate(recordings):
        for path in transcript_paths(_stem_path(recording), files.directory, files.format).values():
            first = owners.setdefault(os.path.abspath(path), number)
            if first == number:
                continue
            if recordings[first] == recording:
                raise UsageError(f"{recording} is given twice; give every recording once.")
            raise UsageError(
                f"{recordings[first]} and {recording} would both be written to {path}; transcribe them one at a time, "
                "each into an --output_dir of its own, or rename one."
            )
    for recording in recordings:
        owner = owners.get(os.path.abspath(recording))
        if owner is not None:
            raise UsageError(
                f"{recording} would be written over by the transcript of {recordings[owner]}; choose another "
                "--output_dir."
            )


def transcribe_recordings(
    model: Model,
    recordings: Sequence[str],
    options: Mapping[str, Any],
    files: Files | None,
    debug: bool = False,
) -> int:
    """Tries every recording; says what failed when it happens, and once more at the end.

    Args:
        model: transcribes.
        recordings: paths; "-" is standard input.
        options: of `Model.transcribe`.
        files: to write as well.
        debug: whether failures are said with their traceback.

    Returns:
        0 where all went well, 1 where some failed, 2 where none could be read; the status of a fault of ours if one
        came up.

    Raises:
        UsageError: an option does not suit the model.
        ArtifactError: the model cannot be used.
    """
    failed, worst = [], 0
    for recording in recordings:
        try:
            if not _transcribe(model, recording, options, files):
                break
        except Exception as error:  # whatever is wrong with one recording, the others have a right to be tried
            if isinstance(error, UsageError | ArtifactError) and not isinstance(error, OutputError):
                raise
            if debug:
                say_traceback(error)
            paragraph, status = explain(error)
            name, worst = _name(recording), max(worst, status)
            named = name in paragraph or printable(name) in paragraph
            say(f"error: {paragraph}" if named else f"error: {name}: {paragraph}")
            failed.append(name)
    if failed and len(recordings) > 1:
        say(f"{len(failed)} of {len(recordings)} recordings failed: {', '.join(failed)}")
    if worst == FAULT or not failed:
        return worst
    return 2 if len(failed) == len(recordings) else 1


def _transcribe(model: Model, recording: str, options: Mapping[str, Any], files: Files | None) -> bool:
    """Transcribes one recording; returns False when nobody reads standard output any more and no files are wanted."""
    segments, info = model.transcribe(_opened(recording), **options)
    kept = []
    for segment in segments:
        kept.append(segment)
        anybody = show_text(segment.text.strip(), in_file=files is not None)
        if not anybody and files is None:
            return False
    if files is not None:
        write(to_result(kept, info.language), _stem_path(recording), files.directory, files.format)
    return True


def _opened(recording: str) -> AudioInput:
    if recording == STANDARD_INPUT:
        if sys.stdin is None:
            raise AudioError("Standard input is closed; send a recording to it, or give the path of one.")
        return sys.stdin.buffer
    return recording


def _stem_path(recording: str) -> str:
    """A path whose stem names the transcript's files."""
    return "stdin" if recording == STANDARD_INPUT else recording


def _name(recording: str) -> str:
    return "standard input" if recording == STANDARD_INPUT else recording
