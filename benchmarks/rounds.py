"""Peers asked in turn, round after round, and what they answered."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from figures import FIGURES


class WorkerFailed(Exception):
    """A worker ended without an answer; the message says why."""


@dataclass
class Results:
    """What a run has so far.

    Attributes:
        peers: names in the order of the table.
        figures: keys of FIGURES in the order of the table.
        values: figure -> peer -> one value a round, in the figure's unit.
        failed: figure -> peer -> reason; such a figure has no median, whatever earlier rounds gave.
        skipped: figure -> peer -> what the peer does not offer.
    """

    peers: list[str]
    figures: list[str]
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)

    def median(self, figure: str, peer: str) -> float | None:
        """Of the rounds; None if the peer failed or does not offer it."""
        if peer in self.failed.get(figure, {}):
            return None
        values = self.values.get(figure, {}).get(peer)
        return statistics.median(values) if values else None

    def ended(self, figure: str, peer: str) -> bool:
        """Whether further rounds would be in vain."""
        return peer in self.failed.get(figure, {}) or peer in self.skipped.get(figure, {})


def alternate(
    results: Results,
    rounds: int,
    ask: Callable[[str, str], dict],
    check: Callable[[str, dict], None],
    say: Callable[[str], None],
    after_round: Callable[[], None] = lambda: None,
) -> None:
    """Ask every peer for every figure: A, B, C, A, B, C, ... within each round.

    Args:
        results: says whom to ask for what; filled.
        rounds: how many.
        ask: peer and figure -> the worker's answer, "value" filled in; raises WorkerFailed.
        check: figure and answer; raises ValueError if what was heard cannot be right.
        say: told about every answer.
        after_round: called at the end of each round.
    """
    heard = {}
    for number in range(1, rounds + 1):
        for figure in results.figures:
            if FIGURES[figure].source or (number > 1 and not FIGURES[figure].every_round):
                continue
            given = [figure, *(key for key in results.figures if FIGURES[key].source == figure)]
            for peer in results.peers:
                if results.ended(figure, peer):
                    continue
                try:
                    answer = ask(peer, figure)
                    if "skipped" in answer:
                        _note(results.skipped, given, peer, answer["skipped"])
                        say(f"round {number}, {figure}, {peer}: skipped, {answer['skipped']}")
                        continue
                    check(figure, answer)
                    said = {key: answer.get(key) for key in ("texts", "tokens")}
                    if heard.setdefault((figure, peer), said) != said:
                        raise ValueError(f"round {number} gave another text than the first")
                except (WorkerFailed, ValueError) as reason:
                    _note(results.failed, given, peer, str(reason))
                    say(f"round {number}, {figure}, {peer}: FAILED: {reason}")
                    continue
                for key in given:
                    value = answer["value" if key == figure else key]
                    results.values.setdefault(key, {}).setdefault(peer, []).append(value)
                say(f"round {number}, {figure}, {peer}: {answer['value']:.{FIGURES[figure].decimals + 1}f}")
        after_round()


def _note(notes: dict[str, dict[str, str]], figures: Sequence[str], peer: str, reason: str) -> None:
    for figure in figures:
        notes.setdefault(figure, {})[peer] = reason
