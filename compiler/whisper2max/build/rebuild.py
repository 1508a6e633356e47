"""compile: rebuild the graphs of an artifact from its model.py and kernels, without torch."""

from collections.abc import Callable, Iterable
from pathlib import Path

from whisper2max.artifact.artifact import Artifact, open_artifact
from whisper2max.artifact.manifest import write_manifest
from whisper2max.artifact.publication import Publication
from whisper2max.build.compiler import Source, compile_graphs, compiler_versions
from whisper2max.build.target import NATIVE, TARGETS_OF, resolve_all
from whisper2max.core.errors import UsageError
from whisper2max.core.held import HeldFiles


def rebuild(artifact: str | Path, say: Callable[[str], None], target: str = NATIVE) -> Artifact:
    """Compile the graphs of an artifact for a target and the installed MAX version.

    Runs the artifact's model.py and Mojo sources: do so with artifacts of people you trust only. The
    result is marked unverified until `verify` passes, on a machine that can run the target.

    Args:
        artifact: the directory.
        say: told what is compiling.
        target: a name of `build.target.TARGETS`, or of several GPUs with commas between; this machine by default,
            whatever it was compiled for before.

    Raises:
        Whisper2MaxError: there is no such target, the artifact is damaged, or its graphs do not compile; it is left
            as it was.
    """
    targets = resolve_all(target)
    resolved = targets[0]
    opened = open_artifact(artifact, check_machine=False, warn_unverified=False)
    if opened.spec.backend != resolved.backend:
        fitting = TARGETS_OF[opened.spec.backend]
        raise UsageError(
            f"{opened.path} has weights for other targets than {target}: choose one of {', '.join(fitting)}, or "
            "convert the checkpoint again."
        )
    stays = [name for name in opened.files if not name.endswith(".mef") and name not in ("parity.json", "parity.html")]
    with Publication(opened.path, force=True) as staging:
        kept = link_files(opened.files, stays, staging)
        compiled = compile_graphs(Source.of(opened.files), staging, resolved, say)
        for each in targets[1:]:
            compiled |= compile_graphs(Source.of(opened.files), staging, each, say, folder=each.name)
        opened.files.require_unchanged()  # what is kept is read again for the manifest
        fields = {
            "target": resolved.to_dict(),
            "versions": {**opened.manifest["versions"], **compiler_versions()},
            "verified": False,
            "executed": False,
            "also": [{**each.to_dict(), "executed": False} for each in targets[1:]],
            "parity": None,
        }
        write_manifest(staging, {**opened.manifest, **fields}, {**kept, **compiled})
    missing = resolved.missing_features()
    if missing:
        say(f"this machine lacks {', '.join(missing)}: the artifact opens on machines that have them")
    return open_artifact(artifact, check_machine=not missing, warn_unverified=False)


def link_files(files: HeldFiles, names: Iterable[str], directory: Path) -> dict[str, str]:
    """Put held files into another directory under the same names, as hard links where the disk has them.

    Returns:
        The hash of each by name, for the manifest.
    """
    hashes = {}
    for name in names:
        destination = directory / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        files[name].link_to(destination)
        hashes[name] = files[name].sha256
    return hashes
