"""Replay: does this artifact still compute what it was proved to compute, on this machine, without torch?

The graphs that ship are compared with the parts of the reference that were kept. Where they differ, the tapped
graphs are run too, compiled first if need be, so that the report names the first value that moved.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from whisper2max.artifact.artifact import Artifact
from whisper2max.build.target import resolve
from whisper2max.core.errors import UsageError
from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.case import Transcript, Window, describe, step_positions, transcript_of
from whisper2max.parity.kept import FILE, Kept, read_kept, seeded_frames, value_key
from whisper2max.parity.report import Findings, Input, Row, TokenRow, data_order
from whisper2max.parity.rows import compare, within
from whisper2max.parity.shipped import features_row, forced_logits, token_rows
from whisper2max.parity.tapped import TappedGraphs
from whisper2max.parity.taps import LOGITS, encoder_taps, prompt_taps
from whisper2max.parity.tolerances import TOLERANCES
from whisper2max.runtime.engine import Engine


def replay(artifact: Artifact, engine: Engine, say: Callable[[str], None]) -> tuple[Findings, Kept]:
    """Compare an artifact with the reference that was kept with it.

    Args:
        artifact: opened, made with --keep-reference.
        engine: its graphs.
        say: told about every stage.

    Raises:
        UsageError: no reference was kept.
    """
    if FILE not in artifact.manifest["files"]:
        raise UsageError(f"{artifact.path} keeps no reference to replay: convert it again with --keep-reference")
    kept = read_kept(artifact.file(FILE), artifact.dims)
    spec, tokenizer = artifact.spec, artifact.tokenizer
    rows: list[Row] = []
    tokens: list[TokenRow] = []
    described: list[Input] = []
    for entry in kept.inputs:
        mel = kept.tensors[f"mel/{entry['name']}"]
        window = Window(entry["name"], entry["seconds"], kept.tensors[f"samples/{entry['name']}"], mel)
        rows.append(features_row(window.name, engine.log_mel(window.samples), mel, TOLERANCES[artifact.dtype]))
        transcript = transcript_of(entry["prompt"], entry["greedy"], spec.dims)
        described.append(describe(window, transcript, tokenizer))
        tokens += _replay_shipped(engine, kept, window, transcript, tokenizer.special.eot, rows)
    if not all(row.passed for row in rows):
        tapped = TappedGraphs(artifact.files, spec, resolve(artifact.target), say)
        for entry in kept.inputs:
            transcript = transcript_of(entry["prompt"], entry["greedy"], spec.dims)
            _replay_tapped(tapped, kept, entry["name"], transcript, spec, rows)
    paths = [tap.path for tap in (*encoder_taps(spec), *prompt_taps(spec))]
    return (data_order(rows, paths), tuple(tokens), tuple(described)), kept


def _replay_shipped(
    engine: Engine, kept: Kept, window: Window, transcript: Transcript, eot: int, rows: list[Row]
) -> list[TokenRow]:
    name = window.name
    handle = engine.encode(window.mel[None])
    rows.append(_row(kept, name, "shipped", "encoder", None, "encoder.ln_post", engine.to_numpy(handle)))
    forced = forced_logits(engine, handle, transcript)
    rows += [_row(kept, name, "shipped", graph, None, LOGITS, forced[n]) for n, graph in enumerate(("prompt", "step"))]
    return token_rows(engine, handle, name, transcript, forced, eot)


def _replay_tapped(
    graphs: TappedGraphs, kept: Kept, name: str, transcript: Transcript, spec: GraphSpec, rows: list[Row]
) -> None:
    handle, values = graphs.encode(kept.tensors[f"mel/{name}"][None])
    rows += [_row(kept, name, "tapped", "encoder", None, path, value) for path, value in values.items()]
    picked = np.arange(len(transcript.forced), dtype=np.int64)[None]
    _, values = graphs.prompt(handle, np.array([transcript.fed], np.int64), picked)
    rows += [_row(kept, name, "tapped", "prompt", None, path, value) for path, value in values.items()]
    for position in step_positions(transcript.prompt, spec.dims):
        values = graphs.step_after(handle, transcript.fed, position)
        rows += [_row(kept, name, "tapped", "step", position, path, value) for path, value in values.items()]


def _row(kept: Kept, input: str, build: str, graph: str, position: int | None, path: str, got: np.ndarray) -> Row:
    key = value_key(input, build, graph, position, path)
    about, reference = kept.value(key, got.shape[1], got.shape[2])
    limits = about["tolerance"]
    row = compare(
        path,
        build=build,
        graph=graph,
        input=input,
        got=np.ascontiguousarray(got[:, seeded_frames(about["rows"])]),
        reference=reference,
        limits=limits,
        source_path=about["source_path"],
        position=position,
    )
    # |got - reference| is at least the difference of their norms, whatever the frames that were not kept
    norm = float(np.linalg.norm(got.astype(np.float64).reshape(-1)))
    rel_rmse = max(row.rel_rmse, abs(norm - about["norm"]) / about["norm"])
    return replace(row, rel_rmse=rel_rmse, passed=within(row.max_abs, rel_rmse, limits))
