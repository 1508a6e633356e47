"""The one loop over recordings that every comparison is, and the comparisons that need no torch.

A `Standard` says what is right: PyTorch (`proof.py`), what was kept of PyTorch (`kept.py`), or another artifact.
"""

import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import whisper2max
from whisper2max.artifact.artifact import Artifact, open_artifact
from whisper2max.build.compiler import compiler_versions
from whisper2max.build.target import resolve
from whisper2max.core.cpu import native_cpu_features
from whisper2max.core.errors import UsageError
from whisper2max.core.held import HeldFile
from whisper2max.graph.ir import GraphSpec
from whisper2max.parity.figures import Place, Row, compare
from whisper2max.parity.graphs import Graphs, ShippedGraphs, TappedGraphs, place_to_judge
from whisper2max.parity.inputs import Transcript, Window, describe, greedy_limit, prompt_of, window_of
from whisper2max.parity.kept import KeptReference
from whisper2max.parity.report import Findings, Input, ParityReport, SameBits, TokenRow, data_order
from whisper2max.parity.runs import Run, greedy_tokens, run_decoder, run_encoder, run_token_by_token
from whisper2max.parity.taps import LOG_MEL, LOGITS, data_paths, taps_of
from whisper2max.parity.tolerances import TOLERANCES, Tolerances
from whisper2max.runtime.engine import Engine
from whisper2max.runtime.tokens import Tokenizer

Say = Callable[[str], None]
_COMPARED = ("model.py", "weights.safetensors")


class Standard(Protocol):
    """What the graphs of an artifact are compared with, one window after the other."""

    def windows(self) -> Iterable[Window]:
        """The recordings."""

    def features(self, window: Window, got: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The spectrogram float32 [n_mels, frames] that both sides are fed, and the one to judge `got` by."""

    def encoder(self, window: Window, mel: np.ndarray, runs: Sequence[Run]) -> list[Row]:
        """Judge runs of the encoder on a spectrogram."""

    def transcript(self, window: Window) -> Transcript:
        """The tokens that are heard in the window whose encoder was judged last."""

    def decoder(self, window: Window, transcript: Transcript, runs: Sequence[Run]) -> list[Row]:
        """Judge runs of the decoder on a transcript of that window."""


def compare_windows(
    graphs: Sequence[Graphs],
    standard: Standard,
    spec: GraphSpec,
    tokenizer: Tokenizer,
    tolerances: Tolerances,
) -> Findings:
    """Run the graphs on the first 30 s of every recording, and judge what they give.

    Args:
        graphs: those that ship, the same with all their values as outputs, or both in this order; the first decode.
        standard: what is right.
        spec: of the network.
        tokenizer: of the model.
        tolerances: of the dtype.
    """
    rows: list[Row] = []
    tokens: list[TokenRow] = []
    same: list[SameBits] = []
    described: list[Input] = []
    first = graphs[0]
    for window in standard.windows():
        got = first.log_mel(window.samples)
        mel, reference = standard.features(window, got)
        rows.append(_features_row(window, got, reference, tolerances))
        encoded = [run_encoder(each, mel, window.name) for each in graphs]
        same += _same_bits([run for _, run in encoded])
        rows += standard.encoder(window, mel, [run for _, run in encoded])
        transcript = standard.transcript(window)
        decoded = [
            list(run_decoder(each, states, window.name, transcript))
            for each, (states, _) in zip(graphs, encoded, strict=True)
        ]
        for runs in zip(*decoded, strict=True):
            same += _same_bits(runs)
        states = encoded[0][0]
        stepped = run_token_by_token(first, states, window.name, transcript)
        limit, eot = len(transcript.greedy), tokenizer.special.eot
        free = greedy_tokens(first, states, transcript.prompt, limit, eot)
        tokens += _token_rows(window.name, transcript, decoded[0], stepped, free)
        rows += standard.decoder(window, transcript, [*(run for runs in decoded for run in runs), stepped])
        described.append(describe(window, transcript, tokenizer))
    return Findings(data_order(rows, data_paths(spec)), tuple(tokens), tuple(same), tuple(described))


def _features_row(window: Window, got: np.ndarray, reference: np.ndarray, tolerances: Tolerances) -> Row:
    limits = {"max_abs": tolerances.log_mel_max_abs, "rel_rmse": None}
    place = Place("shipped", "features", window.name)
    return compare(LOG_MEL, place, got=got, reference=reference, limits=limits, absolute=True)


def _same_bits(runs: Sequence[Run]) -> Iterator[SameBits]:
    """What a run of the shipped graphs gave beside what the tapped ones gave in the same, if there are both."""
    if len(runs) == 2:
        ours, theirs = runs
        for path, values in ours.values.items():
            different = np.count_nonzero(values.view(np.uint32) != theirs.values[path].view(np.uint32))
            yield SameBits(ours.place.input, ours.place.words, values.size, int(different))


def _token_rows(
    name: str, transcript: Transcript, decoded: Sequence[Run], stepped: Run, free: list[int]
) -> Iterator[TokenRow]:
    """Teacher-forced tokens through extend and step, and free-running ones, beside those that are expected."""
    extended = next(run for run in decoded if LOGITS in run.values).values[LOGITS]
    first, end = len(transcript.prompt) - 1, len(transcript.forced)
    kinds = {
        "extend": extended[0, first:end].argmax(-1).tolist(),
        "step": stepped.values[LOGITS][0].argmax(-1).tolist(),
        "free": free,
    }
    for kind, got in kinds.items():
        pairs = list(zip(got, transcript.greedy, strict=False))
        different = next((index for index, (left, right) in enumerate(pairs) if left != right), None)
        if different is None and len(got) != len(transcript.greedy):
            different = len(pairs)
        equal = sum(left == right for left, right in pairs)
        yield TokenRow(name, kind, len(transcript.greedy), equal, different)


def replay_artifact(
    artifact: str | Path, say: Say, device: str = "cpu"
) -> tuple[ParityReport, list[tuple[str, np.ndarray]]]:
    """Ask whether an artifact still computes what it was proved to compute, on this machine.

    The graphs that ship are compared with what was kept. Where they differ, or never ran before, those that give all
    their values are run too, compiled first if need be, so that the report names the first value that moved. An
    artifact for a GPU that passes there is marked executed.

    Args:
        artifact: made with --keep-reference.
        say: told about every stage.
        device: where to judge graphs that were compiled for a GPU, as for `verify`.

    Returns:
        The report, and name and log-mel spectrogram float32 [n_mels, 3000] of every input.

    Raises:
        Whisper2MaxError: the artifact cannot be used, or keeps no reference.
    """
    opened = open_artifact(artifact, warn_unverified=False)
    gpu, name = place_to_judge(device, opened)
    kept, target, files = KeptReference.of(opened), resolve(name), opened.files_for(name)
    ships = target.gpu is None or gpu is not None
    to_finish = gpu is not None and opened.verified and not opened.executed_on(name)

    def compared(graphs: Sequence[Graphs]) -> Findings:
        return compare_windows(graphs, kept, opened.spec, opened.tokenizer, TOLERANCES[opened.dtype])

    def tapped() -> TappedGraphs:
        return TappedGraphs(files, opened.spec, target if ships else target.judged, say, gpu)

    if ships:
        shipped = ShippedGraphs(Engine(files, opened.dims, gpu=gpu))
        found = compared([shipped])
        if to_finish or not all(row.passed for row in found.rows):
            found = compared([shipped, tapped()])
    else:
        found = compared([tapped()])
    not_executed = "" if ships else " and ".join(each["name"] for each in opened.targets)
    report = _report([opened], opened.dtype, f"{kept.judge}, kept with the artifact", found, not_executed)
    if to_finish:
        from whisper2max.parity.marking import mark_proven  # which needs jinja2

        mark_proven(opened, name, report, kept.spectrograms(), say)
    return report, kept.spectrograms()


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
    for each in (ours, theirs):
        if resolve(each.target).gpu is not None:
            raise UsageError(f"{each.path} was compiled for {each.target}; artifacts for CPUs are compared with others")
    if ours.dims != theirs.dims:
        raise UsageError(f"{ours.path} has {ours.dims}, {theirs.path} has {theirs.dims}: not the same network")
    tapped = [TappedGraphs(each.files, each.spec, resolve(each.target), say) for each in (ours, theirs)]
    shipped = [ShippedGraphs(Engine(each.files, each.dims)) for each in (ours, theirs)]
    coarser = max((ours.dtype, theirs.dtype), key=lambda dtype: TOLERANCES[dtype].epsilon)
    say(f"comparing {ours.path} with {theirs.path}")
    standard = OtherArtifact(shipped[1], tapped[1], ours.spec, ours.tokenizer, inputs, TOLERANCES[coarser])
    found = compare_windows([shipped[0], tapped[0]], standard, ours.spec, ours.tokenizer, TOLERANCES[coarser])
    return _report([ours, theirs], coarser, f"the artifact {theirs.path.name} ({theirs.dtype})", found)


def environment(versions: Mapping[str, str]) -> dict[str, Any]:
    """Date, CPU, its features, threads and versions, as parity.json records them."""
    name = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": name.group(1) if name else platform.machine(),
        "cpu_features": native_cpu_features(),
        "threads": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), **versions},
    }


def hashes(files: Mapping[str, HeldFile]) -> dict[str, str]:
    """sha256 of the files that were compared."""
    return {name: files[name].sha256 for name in files if name.endswith(".mef") or name in _COMPARED}


class OtherArtifact:
    """Another artifact of the same dimensions, which is taken for right: another dtype, or yesterday's build.

    Args:
        shipped, tapped: its graphs.
        spec: of the network.
        tokenizer: of the model.
        inputs: names and float32 samples at 16 kHz.
        tolerances: of the coarser dtype of both.
    """

    def __init__(
        self,
        shipped: ShippedGraphs,
        tapped: TappedGraphs,
        spec: GraphSpec,
        tokenizer: Tokenizer,
        inputs: Sequence[tuple[str, np.ndarray]],
        tolerances: Tolerances,
    ):
        self._both = shipped, tapped
        self._taps = taps_of(spec)
        self._dims = spec.dims
        self._prompt, self._eot = prompt_of(tokenizer), tokenizer.special.eot
        self._inputs = inputs
        self._limits = {"max_abs": tolerances.against_max_abs, "rel_rmse": tolerances.against_rel_rmse}
        self._states = []

    def windows(self) -> Iterator[Window]:
        """The recordings."""
        return (window_of(name, samples, self._dims) for name, samples in self._inputs)

    def features(self, window: Window, got: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both sides are fed the features of the other artifact."""
        mel = self._both[0].engine.log_mel(window.samples)
        return mel, mel

    def encoder(self, window: Window, mel: np.ndarray, runs: Sequence[Run]) -> list[Row]:
        """As of `Standard`."""
        encoded = [run_encoder(graphs, mel, window.name) for graphs in self._both]
        self._states = [states for states, _ in encoded]
        return self._rows(runs, [run for _, run in encoded])

    def transcript(self, window: Window) -> Transcript:
        """What the other artifact hears."""
        limit = greedy_limit(self._prompt, self._dims)
        greedy = greedy_tokens(self._both[0], self._states[0], self._prompt, limit, self._eot)
        return Transcript(self._prompt, greedy, self._dims.n_text_ctx)

    def decoder(self, window: Window, transcript: Transcript, runs: Sequence[Run]) -> list[Row]:
        """As of `Standard`."""
        theirs = [run_token_by_token(self._both[0], self._states[0], window.name, transcript)]
        for graphs, states in zip(self._both, self._states, strict=True):
            theirs += run_decoder(graphs, states, window.name, transcript)
        return self._rows(runs, theirs)

    def _rows(self, ours: Sequence[Run], theirs: Sequence[Run]) -> list[Row]:
        references = {run.place: run.values for run in theirs}
        return [
            compare(
                self._taps[run.place.graph][path],
                run.place,
                got=got,
                reference=references[run.place][path],
                limits=self._limits,
                positions=run.positions_of(path),
            )
            for run in ours
            for path, got in run.values.items()
        ]


def _report(
    opened: Sequence[Artifact], dtype: str, reference: str, found: Findings, not_executed: str = ""
) -> ParityReport:
    for artifact in opened:
        artifact.files.require_unchanged(reread=True)
    return ParityReport(
        dtype=dtype,
        reference=reference,
        witness=None,
        found=found,
        weights=None,
        environment=environment({**compiler_versions(), "whisper2max": whisper2max.__version__}),
        hashes=hashes(opened[0].files),
        not_executed=not_executed,
    )
