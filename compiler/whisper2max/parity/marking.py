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
    report: ParityReport,
    inputs: Sequence[tuple[str, np.ndarray]],
    say: Callable[[str], None],
) -> None:
    """Record what a comparison found, if it passed and the manifest does not say as much already.

    Args:
        opened: whose files were compared; they are published anew, the same bytes.
        report: of the comparison.
        inputs: names, and samples or spectrograms, as for `write_report`.
        say: told that it is marked.

    Raises:
        ArtifactError: a file was changed meanwhile.
    """
    executed = not report.not_executed
    if not report.passed or (opened.verified and (opened.executed or not executed)):
        return
    with Publication(opened.path, force=True) as staging:
        proven = link_files(opened.files, [name for name in opened.files if name not in REPORTS], staging)
        write_report(staging, report, inputs)
        found = {"verified": True, "executed": executed, "parity": report.summary()}
        write_manifest(staging, {**opened.manifest, **found}, proven)
    on_gpu = executed and not opened.executed and opened.verified
    say(f"{opened.path} is marked {'executed' if on_gpu else 'verified'}")
