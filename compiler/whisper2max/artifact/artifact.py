"""Opening an artifact: everything is checked before anything in it is used, and what was checked is what is used.

An artifact is a directory with a manifest (`artifact.manifest`). `open_artifact` opens every listed file once,
compares all of them with the manifest, above all before compiled graphs, which are native code, are handed to MAX, and
checks what they hold. From then on they are read through the descriptors that were hashed (`whisper2max.core.held`).

Hashes prove integrity, not origin: whoever can write the files can write a manifest that agrees with
them. Open artifacts only from people whose programs you would run. Weights are mapped: whoever can write their file
while a model runs changes the model, so an artifact belongs in a directory that only its owner can write.

This module imports neither torch nor max.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from whisper2max.artifact.contents import Contents, read_contents
from whisper2max.artifact.listing import MANIFEST, check_hashes, check_listing
from whisper2max.artifact.manifest import FAILED_MARKER, read_manifest, targets_of
from whisper2max.core.cpu import cpu_features
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile, HeldFiles
from whisper2max.core.printable import shortened
from whisper2max.graph.ir import GraphSpec
from whisper2max.runtime.tokens import Tokenizer

FAILED_SUFFIX = ".failed"


class UnverifiedArtifactWarning(UserWarning):
    """An artifact was opened whose graphs have not been compared with PyTorch."""


@dataclass(frozen=True)
class Artifact:
    """A directory that passed the checks of `open_artifact`.

    Attributes:
        path: the directory.
        manifest: the parsed manifest.json.
        files: every file that it lists, open; `close` closes them, and so does forgetting the artifact.
        contents: what was read of them.
    """

    path: Path
    manifest: dict[str, Any]
    files: HeldFiles
    contents: Contents

    @property
    def dims(self) -> ModelDimensions:
        """The sizes of the model."""
        return ModelDimensions(**self.manifest["dims"])

    @property
    def dtype(self) -> str:
        """How the weights are stored: "float32", "bfloat16" or "int8"."""
        return self.manifest["dtype"]

    @property
    def target(self) -> str:
        """Name of what the graphs were compiled for, such as "native" or "x86-64-v3"; of several the first."""
        return self.manifest["target"]["name"]

    @property
    def targets(self) -> list[dict[str, Any]]:
        """All that there are graphs for, as the manifest describes them; `executed` of each says whether they ran."""
        return targets_of(self.manifest)

    @property
    def verified(self) -> bool:
        """Whether exactly these files passed the comparison with PyTorch."""
        return self.manifest["verified"]

    @property
    def executed(self) -> bool:
        """Whether the compiled graphs of every target were executed when they were verified."""
        return all(target["executed"] for target in self.targets)

    @property
    def spec(self) -> GraphSpec:
        """The network, as graph.txt describes it."""
        return self.contents.spec

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, from tokenizer.json."""
        return self.contents.tokenizer

    @property
    def generation(self) -> dict[str, Any]:
        """The content of generation.json: special tokens, suppress lists, alignment heads, mel settings."""
        return self.contents.generation

    def file(self, name: str) -> HeldFile:
        """One listed file, by its name relative to the artifact, such as "encoder.mef".

        Raises:
            ArtifactError: the manifest does not list it.
        """
        if name not in self.files:
            raise ArtifactError(
                f"{self.path} holds no {name}; it holds {shortened(self.files)}. "
                "The artifact is of another kind than this command needs: convert the model again."
            )
        return self.files[name]

    def executed_on(self, target: str) -> bool:
        """Whether the compiled graphs of one of its targets were executed when they were verified."""
        return any(each["executed"] for each in self.targets if each["name"] == target)

    def files_for(self, target: str) -> Mapping[str, HeldFile]:
        """Its files as if it had graphs for one of its targets alone."""
        folders = {f"{each['name']}/" for each in self.manifest["also"]}
        files = {name: file for name, file in self.files.items() if not name.startswith(tuple(folders))}
        if f"{target}/" in folders:
            chosen = {name: file for name, file in self.files.items() if name.startswith(f"{target}/")}
            files |= {name.removeprefix(f"{target}/"): file for name, file in chosen.items()}
        return files

    def close(self) -> None:
        """Closes its files. A model that was loaded from it goes on."""
        self.files.close()


def open_artifact(path: str | Path, *, check_machine: bool = True, warn_unverified: bool = True) -> Artifact:
    """Opens an artifact after checking all of it, in this order: manifest, file list, machine, hashes, contents.

    Nothing in the directory is executed. Hashing takes about 1 s per GB when the files are in memory.

    Args:
        path: the directory; it may itself be a symbolic link.
        check_machine: False to open an artifact of another MAX version or CPU, to inspect or rebuild it.
        warn_unverified: emit an `UnverifiedArtifactWarning` when the artifact has not passed the comparison
            with PyTorch.

    Raises:
        ArtifactError: the directory is missing, not an artifact, damaged, of another format, of another MAX
            version, or compiled for CPU features that this machine lacks.
    """
    path = Path(path)
    try:
        _check_is_artifact_directory(path)
        manifest = read_manifest(path)
        check_listing(path, manifest)
        if check_machine:
            _check_machine(path, manifest)
        files = HeldFiles(path, manifest["files"], ArtifactError)
        check_hashes(files, manifest)
        contents = read_contents(files, ModelDimensions(**manifest["dims"]), manifest["dtype"], targets_of(manifest))
        files.require_unchanged()
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}). Give its files to this user, or copy the artifact again."
        ) from error
    if warn_unverified and not manifest["verified"]:
        warnings.warn(
            f"{path} has not been compared with PyTorch since its graphs were compiled. "
            f"Run `whisper2max verify {path}` to know that it computes the same.",
            UnverifiedArtifactWarning,
            stacklevel=2,
        )
    never_ran = [target["name"] for target in targets_of(manifest) if not target["executed"]]
    if warn_unverified and manifest["verified"] and never_ran:
        warnings.warn(
            f"{path} was compiled for {' and '.join(never_ran)} and not executed: its network was compared with "
            "PyTorch on a CPU, and what the device computes was not.",
            UnverifiedArtifactWarning,
            stacklevel=2,
        )
    return Artifact(path, manifest, files, contents)


def _check_is_artifact_directory(path: Path) -> None:
    if not path.exists():
        raise ArtifactError(
            f"{path} does not exist. `whisper2max convert` makes an artifact, by default under artifacts/."
        )
    if not path.is_dir():
        raise ArtifactError(f"{path} is a file; an artifact is a directory with a {MANIFEST}. Name that directory.")
    if path.resolve().name.endswith(FAILED_SUFFIX) or os.path.lexists(path / FAILED_MARKER):
        raise ArtifactError(
            f"{path} is what a failed conversion left behind and cannot be loaded. {FAILED_MARKER} in it "
            "says what failed; convert the model again."
        )
    if not os.path.lexists(path / MANIFEST):
        hint = " Name a directory that `whisper2max convert` wrote."
        if (path / "config.json").exists():
            hint = f" It looks like a checkpoint: run `whisper2max convert --checkpoint {path}` first."
        raise ArtifactError(f"{path} is not an artifact: it has no {MANIFEST}.{hint}")


def _check_machine(path: Path, manifest: dict[str, Any]) -> None:
    built = manifest["versions"]["max"]
    try:
        installed = metadata.version("max")
    except metadata.PackageNotFoundError as error:
        raise ArtifactError(
            f"{path} needs MAX {built}, and no MAX is installed here: run `pip install max=={built}`."
        ) from error
    if built != installed:
        raise ArtifactError(
            f"{path} was compiled by MAX {built}, and MAX {installed} is installed here; compiled graphs "
            f"load in their own version only. Run `whisper2max compile {path}` to rebuild them, or `pip "
            f"install max=={built}`."
        )
    needed = {feature for target in targets_of(manifest) for feature in target["cpu_features"]}
    missing = sorted(needed - cpu_features()) if needed else []
    if missing:
        raise ArtifactError(
            f"{path} was compiled for {manifest['target']['name']}, with CPU features that this machine lacks: "
            f"{', '.join(missing)}. Run `whisper2max compile {path}` on this machine to rebuild its graphs."
        )
