"""Results as a markdown table with its conditions, its legend, and the reason for every empty cell."""

from collections.abc import Sequence

from figures import FIGURES
from rounds import Results

WITHOUT_RATIO = ("wer",)


def table(results: Results, reference: str, conditions: Sequence[str]) -> str:
    """Medians; in brackets how many times the reference's each is, so above 1 is slower or larger.

    Args:
        results: of a run.
        reference: the peer that ratios are taken against.
        conditions: paragraphs that say where, when and how.
    """
    heads = ["", *(FIGURES[figure].title for figure in results.figures)]
    rows = [[peer, *(_cell(results, figure, peer, reference) for figure in results.figures)] for peer in results.peers]
    lines = [_row(heads), _row(["---", *["---:"] * len(results.figures)]), *map(_row, rows), ""]
    lines.append(f"Medians; in brackets the ratio to {reference}: above 1 is slower or larger.")
    lines += ["", *(f"- **{FIGURES[figure].title}:** {FIGURES[figure].meaning}" for figure in results.figures)]
    for title, notes in (("Failed", results.failed), ("Not measured", results.skipped)):
        reasons = {}
        for figure in results.figures:
            for peer, reason in notes.get(figure, {}).items():
                reasons.setdefault((peer, reason), []).append(FIGURES[figure].title)
        if reasons:
            lines += ["", f"{title}:", ""]
            lines += [f"- {peer}, {'; '.join(titles)}: {reason}" for (peer, reason), titles in reasons.items()]
    for condition in conditions:
        lines += ["", condition]
    return "\n".join(lines) + "\n"


def spread(results: Results) -> str:
    """How far the rounds of the least steady cell lie apart, as a sentence."""
    ranges = [
        ((max(values) - min(values)) / results.median(figure, peer), figure, peer)
        for figure in results.figures
        for peer, values in results.values.get(figure, {}).items()
        if len(values) > 1 and results.median(figure, peer)
    ]
    if not ranges:
        return "Nothing was measured more than once."
    widest, figure, peer = max(ranges)
    return f"Widest range over the rounds: {widest:.0%} of the median ({peer}, {FIGURES[figure].title})."


def _cell(results: Results, figure: str, peer: str, reference: str) -> str:
    if peer in results.failed.get(figure, {}):
        return "**failed**"
    value, base = results.median(figure, peer), results.median(figure, reference)
    if value is None:
        return "–"
    text = f"{value:.{FIGURES[figure].decimals}f}"
    return text if not base or figure in WITHOUT_RATIO else f"{text} ({value / base:.2f})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
