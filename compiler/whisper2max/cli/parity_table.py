"""The report on a terminal: the worst value of every kind, and how much of its limit it uses."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from whisper2max.core.printable import printable


def parity_table(summary: Mapping[str, Any]) -> Table:
    """A table of `ParityReport.summary()`, for a console that takes names as they are, without markup."""
    title = printable(f"parity against {summary['reference']} on {', '.join(summary['inputs'])}")
    if target := summary["not_executed"]:
        title += printable(f"; on this CPU, the graphs for {target} were not executed")
    table = Table(title=title, title_justify="left", caption=_caption(summary), caption_justify="left")
    for name, justify in [("worst of", "left"), ("max-abs", "right"), ("rel. RMSE", "right"), ("of limit", "right")]:
        table.add_column(name, justify=justify)
    for kind, worst in summary["worst"].items():
        style = None if worst["of_limit"] <= 1 else "bold red"
        figures = f"{worst['max_abs']:.1e}", f"{worst['rel_rmse']:.1e}", f"{worst['of_limit']:.0%}"
        table.add_row(printable(kind), *figures, style=style)
    return table


def _caption(summary: Mapping[str, Any]) -> str:
    tokens = summary["tokens"]
    verdict = "passed" if summary["passed"] else "FAILED"
    return f"{summary['rows']} values compared, tokens equal {tokens['equal']} of {tokens['compared']}: {verdict}"
