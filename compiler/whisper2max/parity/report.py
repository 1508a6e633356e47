"""What a comparison found, as data, and the verdict."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from whisper2max.artifact.manifest import GRAPHS
from whisper2max.parity.figures import Row
from whisper2max.parity.taps import LOG_MEL, LOGITS
from whisper2max.parity.tolerances import TOLERANCES

SCHEMA_VERSION = 4
_NEIGHBOURS = 2
_BUILDS = {"tapped": 0, "isolated": 1, "shipped": 2}


@dataclass(frozen=True)
class TokenRow:
    """Tokens of one input, compared.

    Attributes:
        input: name of the audio.
        kind: "extend" and "step" are teacher-forced through that graph, "free" is free-running greedy.
        compared: tokens of the reference.
        equal: how many of them the compiled graphs gave at the same place.
        first_different: index of the first token that differs, is missing or is too many; None if all are equal.
    """

    input: str
    kind: str
    compared: int
    equal: int
    first_different: int | None


@dataclass(frozen=True)
class Input:
    """One recording that was compared on: its first 30 s.

    Attributes:
        name: file name.
        seconds: of the recording that were used.
        transcript: text of the reference's greedy tokens.
    """

    name: str
    seconds: float
    transcript: str


@dataclass(frozen=True)
class WeightDifference:
    """A stored weight that is not what the checkpoint gives.

    Attributes:
        name: canonical name of the tensor.
        source_path: its name in the checkpoint's module tree.
        count: values that differ.
        index: of the first of them, in the checkpoint's own tensor [out, in(, kernel)].
        value, expected: stored there, and what it should be; None for a tensor that is missing, or of another
            shape or type.
    """

    name: str
    source_path: str | None
    count: int
    index: tuple[int, ...]
    value: float | None
    expected: float | None


@dataclass(frozen=True)
class WeightAudit:
    """weights.safetensors against the walked checkpoint, value by value.

    Attributes:
        tensors, values: how many were compared.
        different: every tensor that is not equal.
    """

    tensors: int
    values: int
    different: tuple[WeightDifference, ...]


@dataclass(frozen=True)
class SameBits:
    """Results of a shipped graph beside those of the graph with its values as outputs, on the same inputs.

    Attributes:
        input: name of the audio.
        place: the graph in words, and how it was run.
        compared: how many values.
        different: how many differ in any bit.
    """

    input: str
    place: str
    compared: int
    different: int


@dataclass(frozen=True)
class Findings:
    """What a comparison of some kind found.

    Attributes:
        rows: values, in data order.
        tokens: of every input.
        same_bits: of every execution; empty where only one of both graphs was run.
        inputs: what they were.
    """

    rows: tuple[Row, ...]
    tokens: tuple[TokenRow, ...]
    same_bits: tuple[SameBits, ...]
    inputs: tuple[Input, ...]


@dataclass(frozen=True)
class ParityReport:
    """Outcome of comparing compiled graphs with a reference.

    Attributes:
        dtype: of the weights, which chose the tolerances; of two artifacts, that of the coarser.
        reference: what judged.
        witness: whose float32 error is the unit of the tolerances; None without torch.
        found: everything but the weights.
        weights: the audit; None where there was no checkpoint to audit against.
        environment: machine and versions.
        hashes: sha256 of the compared files by name.
        not_executed: the target whose compiled graphs were not run, because it is a GPU; what was compared is then the
            same network, compiled for this CPU. Empty where the graphs that ship were run.
    """

    dtype: str
    reference: str
    witness: str | None
    found: Findings
    weights: WeightAudit | None
    environment: dict[str, Any]
    hashes: dict[str, str]
    not_executed: str = ""

    @property
    def rows(self) -> tuple[Row, ...]:
        """Values in data order."""
        return self.found.rows

    @property
    def tokens(self) -> tuple[TokenRow, ...]:
        """Greedy and teacher-forced tokens."""
        return self.found.tokens

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The audio."""
        return self.found.inputs

    @property
    def first_divergent(self) -> Row | None:
        """The first row out of tolerance in data order, whatever the input."""
        return next((row for row in self.rows if not row.passed), None)

    @property
    def passed(self) -> bool:
        """Something was compared: values within tolerance, enough tokens, bits of both graphs and weights equal."""
        complete = bool(self.rows and self.tokens) and all(row.compared for row in self.tokens)
        weights = self.weights is None or (self.weights.tensors > 0 and not self.weights.different)
        tokens = all(self.agrees(row) for row in self.tokens)
        same = not any(each.different for each in self.found.same_bits)
        return complete and weights and tokens and same and self.first_divergent is None

    def agrees(self, row: TokenRow) -> bool:
        """Whether enough tokens of a row are equal for the dtype; free-running ones of narrow dtypes are not judged."""
        needed = TOLERANCES[self.dtype].token_agreement
        if needed == 1:
            return row.first_different is None
        return row.kind == "free" or row.equal >= min(needed * row.compared, row.compared - 1)

    def worst_by_kind(self) -> dict[str, Row]:
        """The row closest to its limit of every build and kind of value, such as "tapped attn.query"."""
        worst: dict[str, Row] = {}
        for row in self.rows:
            kind = f"{row.build} {kind_of(row.path)}"
            if kind not in worst or row.of_limit > worst[kind].of_limit:
                worst[kind] = row
        return worst

    def summary(self) -> dict[str, Any]:
        """The part that the manifest keeps: verdict, worst figures, token agreement."""
        return {
            "passed": self.passed,
            "reference": self.reference,
            "witness": self.witness,
            "not_executed": self.not_executed,
            "inputs": [each.name for each in self.inputs],
            "rows": len(self.rows),
            "worst": {
                kind: {"path": row.path, "max_abs": row.max_abs, "rel_rmse": row.rel_rmse, "of_limit": row.of_limit}
                for kind, row in self.worst_by_kind().items()
            },
            "tokens": self._token_counts(),
        }

    def to_dict(self) -> dict[str, Any]:
        """parity.json; its schema is described in docs/parity.md."""
        divergent = self.first_divergent
        return _finite(
            {
                "schema_version": SCHEMA_VERSION,
                "passed": self.passed,
                "dtype": self.dtype,
                "reference": self.reference,
                "witness": self.witness,
                "not_executed": self.not_executed,
                "environment": self.environment,
                "hashes": self.hashes,
                "inputs": [asdict(each) for each in self.inputs],
                "weights": asdict(self.weights) if self.weights else None,
                "layers": [asdict(row) for row in self.rows if row.path != LOGITS],
                "logits": [asdict(row) for row in self.rows if row.path == LOGITS],
                "tokens": {**self._token_counts(), "rows": [self._token_row(row) for row in self.tokens]},
                "same_bits": [asdict(each) for each in self.found.same_bits],
                "first_divergent": asdict(divergent) if divergent else None,
                "explanation": self.explanation(),
            }
        )

    def explanation(self) -> str:
        """One paragraph: why the comparison failed, or that it did not."""
        parts = [
            self._weights_in_words(),
            self._divergence_in_words(),
            self._other_bits_in_words(),
            self._tokens_in_words(),
        ]
        found = " ".join(part for part in parts if part)
        return found or ("everything is within tolerance." if self.passed else "nothing was compared.")

    def _weights_in_words(self) -> str:
        if not self.weights or not self.weights.different:
            return ""
        first = self.weights.different[0]
        where = f"first at {list(first.index)}: {first.value}, the checkpoint gives {first.expected}"
        found = f"{first.count} values differ, {where}" if first.expected is not None else "missing or of another shape"
        others = len(self.weights.different) - 1
        more = f" {others} more tensors differ." if others else ""
        return f"weights.safetensors is not the checkpoint: {first.name} ({found}).{more}"

    def _divergence_in_words(self) -> str:
        row = self.first_divergent
        if row is None:
            return ""
        limits = row.tolerance
        judged = [f"max-abs {row.max_abs:.2e} of the reference's largest value (limit {limits['max_abs']:.2e})"]
        if limits["rel_rmse"] is not None:
            judged.append(f"relative RMSE {row.rel_rmse:.2e} (limit {limits['rel_rmse']:.2e})")
        source = f" ({row.source_path})" if row.source_path else ""
        inside = f", which has {' and '.join(row.inside)} inside" if row.inside else ""
        return (
            f"{row.path}{source} is the first that diverges from {self.reference}, in the {row.build} "
            f"{row.place.words} on {row.input}, computed by {row.kernel}{inside}: {', '.join(judged)}."
            f"{self._growth(row)}"
        )

    def _growth(self, row: Row) -> str:
        """Errors around a row as fractions of their limits, along the same graph and input."""
        along = [other for other in self.rows if other.place == row.place]
        index = along.index(row)
        before = along[max(0, index - _NEIGHBOURS) : index]
        after = along[index + 1 : index + 1 + _NEIGHBOURS]
        steps = ", ".join(f"{each.path} {each.of_limit:.2g}" for each in [*before, row, *after])
        inputs = "" if not before else " Its inputs were good."
        return f" Error as a fraction of its limit along the way: {steps}.{inputs}"

    def _other_bits_in_words(self) -> str:
        other = [each for each in self.found.same_bits if each.different]
        if not other:
            return ""
        first = other[0]
        return (
            f"The shipped {first.place} is not the graph whose values were compared: {first.different} of its "
            f"{first.compared} results on {first.input} differ."
        )

    def _tokens_in_words(self) -> str:
        wrong = [row for row in self.tokens if not self.agrees(row)]
        if not wrong:
            return ""
        return (
            f"Tokens differ from torch's on {wrong[0].input} ({wrong[0].kind}): {wrong[0].equal} of "
            f"{wrong[0].compared} equal, first at index {wrong[0].first_different}."
        )

    def _token_row(self, row: TokenRow) -> dict[str, Any]:
        return {**asdict(row), "passed": self.agrees(row)}

    def _token_counts(self) -> dict[str, int]:
        return {
            "compared": sum(row.compared for row in self.tokens),
            "equal": sum(row.equal for row in self.tokens),
        }


def data_order(rows: Sequence[Row], paths: Sequence[str]) -> tuple[Row, ...]:
    """Rows sorted as data flows: log_mel, then `paths` of the tapped graphs, of blocks by themselves, of the shipped.

    Rows of one path stay together, by graph and how it was run; inputs in the order they were given.
    """
    rank = {path: number for number, path in enumerate(paths)}
    graphs = {graph: number for number, graph in enumerate(GRAPHS)}

    def key(row: Row) -> tuple:
        run = graphs[row.graph], row.case or "", row.row or 0, row.position or 0
        return row.path != LOG_MEL.path, _BUILDS[row.build], rank[row.path], *run

    return tuple(sorted(rows, key=key))


def kind_of(path: str) -> str:
    """A path without its side and layer: encoder.blocks.3.attn.query -> "encoder attn.query"."""
    side, _, inside = path.partition(".")
    if inside.startswith("blocks."):
        inside = ".".join(inside.split(".")[2:]) or "block"
    return f"{side} {inside}".strip()


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null stands for both."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
