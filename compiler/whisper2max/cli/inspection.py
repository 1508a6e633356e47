"""Collect the facts that `whisper2max inspect` shows of an artifact or a checkpoint."""

from pathlib import Path
from typing import Any

from whisper2max.artifact.artifact import open_artifact
from whisper2max.artifact.listing import MANIFEST


def inspect(path: str | Path, tokenizer: str | Path | None = None) -> dict[str, Any]:
    """Dimensions, graph text, files, parity and provenance, as JSON-able values.

    Args:
        path: an artifact, or any checkpoint that convert takes.
        tokenizer: for a checkpoint without one.

    Raises:
        Whisper2MaxError: it is neither, or it is damaged.
    """
    if (Path(path) / MANIFEST).exists():
        return _inspect_artifact(path)
    return _inspect_checkpoint(path, tokenizer)


def _inspect_artifact(path: str | Path) -> dict[str, Any]:
    artifact = open_artifact(path, check_machine=False, warn_unverified=False)
    return {"kind": "artifact", **artifact.manifest, "graph": artifact.spec.to_text()}


def _inspect_checkpoint(path: str | Path, tokenizer: str | Path | None) -> dict[str, Any]:
    from whisper2max.checkpoints import open_checkpoint
    from whisper2max.graph.walker import walk

    checkpoint = open_checkpoint(path, tokenizer)
    spec = walk(checkpoint.module, checkpoint.dims).spec
    return {
        "kind": "checkpoint",
        "source": checkpoint.source,
        "notes": list(checkpoint.notes),
        "dims": checkpoint.dims.to_dict(),
        "generation": checkpoint.generation,
        "graph": spec.to_text(),
    }
