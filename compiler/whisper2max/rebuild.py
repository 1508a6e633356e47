"""compile: rebuild the graphs of an artifact from its model.py and kernels, without torch."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from whisper2max.artifact import Artifact, open_artifact, write_manifest
from whisper2max.build import GRAPHS, compile_graphs, compiler_versions
from whisper2max.publication import Publication
from whisper2max.target import NATIVE, resolve


def rebuild(artifact: str | Path, say: Callable[[str], None], target: str = NATIVE) -> Artifact:
    """Compile the graphs of an artifact for a target and the installed MAX version.

    Runs the artifact's model.py and Mojo sources: do so with artifacts of people you trust only. The
    result is marked unverified until `verify` passes, on a machine that can run the target.

    Args:
        artifact: the directory.
        say: told what is compiling.
        target: a name of `whisper2max.target.TARGETS`; this machine by default, whatever it was compiled for before.

    Raises:
        Whisper2MaxError: there is no such target, the artifact is damaged, or its graphs do not compile; it is left
            as it was.
    """
    resolved = resolve(target)
    opened = open_artifact(artifact, check_machine=False, warn_unverified=False)
    replaced = {*(f"{name}.mef" for name in GRAPHS), "parity.json", "parity.html"}
    with Publication(opened.path, force=True) as staging:
        link_files(opened, staging, (name for name in opened.manifest["files"] if name not in replaced))
        compile_graphs(staging, resolved, say)
        fields = {
            "target": resolved.to_dict(),
            "versions": {**opened.manifest["versions"], **compiler_versions()},
            "verified": False,
            "parity": None,
        }
        write_manifest(staging, {**opened.manifest, **fields})
    missing = resolved.missing_features()
    if missing:
        say(f"this machine lacks {', '.join(missing)}: the artifact opens on machines that have them")
    return open_artifact(artifact, check_machine=not missing, warn_unverified=False)


def link_files(artifact: Artifact, directory: Path, names: Iterable[str]) -> None:
    """Put files of an artifact into another directory of the same disk, as hard links where it has them."""
    for name in names:
        destination = directory / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(artifact.file(name), destination)
        except OSError:
            shutil.copyfile(artifact.file(name), destination)
