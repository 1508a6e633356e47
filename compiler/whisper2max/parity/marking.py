"""An artifact that passed is marked so: in its manifest, with the report of the comparison."""

from collections.abc import Callable, Sequence

import numpy as np

from whisper2max.artifact.artifact import Artifact
from whisper2max.artifact.manifest import write_manifest
from whisper2max.artifact.publication import Publication
from whisper2max.build.rebuild import link_files
from whisper2max.parity.html import REPORTS, write_report
from whisper2max.parity.report import ParityReport


def mark_proven(
    opened: Artifact,
    target: str,
    report: ParityReport,
    inputs: Sequence[tuple[str, np.ndarray]],
    say: Callable[[str], None],
) -> None:
    """Record what a comparison found, if it passed and the manifest does not say as much already.

    Args:
        opened: whose files were compared; they are published anew, the same bytes.
        target: of the graphs that were.
        report: of the comparison.
        inputs: names, and samples or spectrograms, as for `write_report`.
        say: told that it is marked.

    Raises:
        ArtifactError: a file was changed meanwhile.
    """
    executed = not report.not_executed
    first_time = executed and not opened.executed_on(target)
    if not report.passed or (opened.verified and not first_time):
        return
    with Publication(opened.path, force=True) as staging:
        proven = link_files(opened.files, [name for name in opened.files if name not in REPORTS], staging)
        write_report(staging, report, inputs)
        ran = {each["name"]: each["executed"] or (executed and each["name"] == target) for each in opened.targets}
        found = {
            "verified": True,
            "executed": ran[opened.target],
            "also": [{**each, "executed": ran[each["name"]]} for each in opened.manifest["also"]],
            "parity": report.summary(),
        }
        write_manifest(staging, {**opened.manifest, **found}, proven)
    say(f"{opened.path} is marked {'executed' if opened.verified else 'verified'}")
