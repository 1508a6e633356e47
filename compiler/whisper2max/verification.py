"""verify: compare an artifact with the checkpoint it came from, at any later time."""

from collections.abc import Callable, Sequence
from pathlib import Path

from whisper2max.artifact import open_artifact, write_manifest
from whisper2max.checkpoints import open_checkpoint
from whisper2max.conversion import judge_directory, reopen, silent, write_report
from whisper2max.errors import UsageError
from whisper2max.parity.inputs import load_inputs
from whisper2max.parity.report import ParityReport
from whisper2max.publication import Publication
from whisper2max.rebuild import link_files
from whisper2max.walker import walk


def verify(
    artifact: str | Path,
    *,
    checkpoint: str | Path | None = None,
    tokenizer: str | Path | None = None,
    audio: Sequence[str | Path] = (),
    say: Callable[[str], None] = silent,
) -> ParityReport:
    """Judge the shipped graphs of an artifact again.

    An artifact that is not marked verified, because its graphs were rebuilt, becomes so when it passes;
    otherwise nothing is written.

    Args:
        artifact: the directory.
        checkpoint: where the checkpoint is; by default what the manifest names, if it can be found by name.
        tokenizer: as for convert.
        audio: files to judge on instead of the sample that comes with the package.
        say: told about every stage.

    Raises:
        Whisper2MaxError: the artifact or the checkpoint cannot be used. A comparison that fails does not
            raise; `ParityReport.passed` is False.
    """
    opened = open_artifact(artifact, warn_unverified=False)
    inputs = load_inputs(audio)
    if checkpoint is None:
        source = reopen(opened.manifest["source"], tokenizer, say)
    else:
        source = open_checkpoint(checkpoint, tokenizer)
    if source.dims != opened.dims:
        raise UsageError(f"the checkpoint has {source.dims}, the artifact {opened.dims}: another model")
    say("comparing the compiled graphs with PyTorch")
    report = judge_directory(opened.path, source, walk(source.module, source.dims), opened.dtype, inputs)
    if report.passed and not opened.verified:
        with Publication(opened.path, force=True) as staging:
            link_files(opened, staging, opened.manifest["files"])
            write_report(staging, report)
            write_manifest(staging, {**opened.manifest, "verified": True, "parity": report.summary()})
        say(f"{opened.path} is marked verified")
    return report
