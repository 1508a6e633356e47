"""Comparisons that need no torch: an artifact with the reference kept in it, or with another artifact."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import whisper2max
from whisper2max.artifact.artifact import Artifact, open_artifact
from whisper2max.build.compiler import compiler_versions
from whisper2max.build.target import resolve
from whisper2max.core.errors import UsageError
from whisper2max.parity.against import compare_artifacts
from whisper2max.parity.environment import environment, hashes
from whisper2max.parity.replay import replay
from whisper2max.parity.report import Input, ParityReport, Row, TokenRow
from whisper2max.parity.tapped import TappedGraphs
from whisper2max.parity.tolerances import TOLERANCES
from whisper2max.runtime.engine import Engine

Say = Callable[[str], None]


def replay_artifact(artifact: str | Path, say: Say) -> tuple[ParityReport, list[tuple[str, np.ndarray]]]:
    """Ask whether an artifact still computes what it was proved to compute.

    Args:
        artifact: made with --keep-reference.
        say: told about every stage.

    Returns:
        The report, and name and log-mel spectrogram float32 [n_mels, 3000] of every input.

    Raises:
        Whisper2MaxError: the artifact cannot be used, or keeps no reference.
    """
    opened = open_artifact(artifact, warn_unverified=False)
    findings, kept = replay(opened, Engine(opened.files, opened.dims), say)
    inputs = [(entry["name"], kept.tensors[f"mel/{entry['name']}"]) for entry in kept.inputs]
    return _report([opened], opened.dtype, f"{kept.judge}, kept with the artifact", *findings), inputs


def compare_with(
    artifact: str | Path, other: str | Path, inputs: Sequence[tuple[str, np.ndarray]], say: Say
) -> ParityReport:
    """Compare an artifact with another one of the same dimensions, which is taken for right.

    Args:
        artifact: the one that is judged.
        other: the one that it is compared with.
        inputs: names and float32 samples at 16 kHz.
        say: told about every stage.

    Raises:
        Whisper2MaxError: one of them cannot be used, or they are not the same network.
    """
    ours, theirs = (open_artifact(path, warn_unverified=False) for path in (artifact, other))
    if ours.dims != theirs.dims:
        raise UsageError(f"{ours.path} has {ours.dims}, {theirs.path} has {theirs.dims}: not the same network")
    tapped = tuple(TappedGraphs(each.files, each.spec, resolve(each.target), say) for each in (ours, theirs))
    coarser = max((ours.dtype, theirs.dtype), key=lambda dtype: TOLERANCES[dtype].epsilon)
    say(f"comparing {ours.path} with {theirs.path}")
    findings = compare_artifacts(
        tuple(Engine(each.files, each.dims) for each in (ours, theirs)),
        tapped,
        ours.spec,
        ours.tokenizer,
        inputs,
        TOLERANCES[coarser],
    )
    return _report([ours, theirs], coarser, f"the artifact {theirs.path.name} ({theirs.dtype})", *findings)


def _report(
    opened: Sequence[Artifact],
    dtype: str,
    reference: str,
    rows: tuple[Row, ...],
    tokens: tuple[TokenRow, ...],
    inputs: tuple[Input, ...],
) -> ParityReport:
    for artifact in opened:
        artifact.files.require_unchanged(reread=True)
    return ParityReport(
        dtype=dtype,
        reference=reference,
        witness=None,
        inputs=inputs,
        rows=rows,
        tokens=tokens,
        weights=None,
        environment=environment({**compiler_versions(), "whisper2max": whisper2max.__version__}),
        hashes=hashes(opened[0].files),
    )
