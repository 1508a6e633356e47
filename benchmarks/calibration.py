"""How close reports come to the limits of parity: python benchmarks/calibration.py PARITY_JSON ..

Reports are of `whisper2max verify ARTIFACT --audio FILE .. --report DIR`. Printed are the figures that the multiples in
`parity/tolerances.py` limit: the error of every row in units of torch's own, or of the dtype's epsilon.
"""

import json
import statistics
import sys
from dataclasses import fields
from pathlib import Path

from whisper2max.parity.figures import Place
from whisper2max.parity.tolerances import TOLERANCES


def ratios(report: dict, figure: str, one_position: bool) -> list[tuple[float, str]]:
    """Ratio and place of every row of many frames or tokens, or of those of a single position, the largest first."""
    tolerances = TOLERANCES[report["dtype"]]
    floor = tolerances.floor * tolerances.epsilon
    rows = [
        row
        for row in report["layers"] + report["logits"]
        if row[f"torch_{figure}"] is not None and (row["shape"][1] == 1) == one_position
    ]
    ratio_of = {
        f"{row['path']}, {row['build']} {place_of(row).words}, {row['input']}": row[figure]
        / max(row[f"torch_{figure}"], floor)
        for row in rows
    }
    return sorted(((ratio, place) for place, ratio in ratio_of.items()), reverse=True)


def place_of(row: dict) -> Place:
    """Where a row was computed."""
    return Place(*(row[field.name] for field in fields(Place)))


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        report = json.loads(path.read_text())
        rows, tokens = len(report["layers"]) + len(report["logits"]), report["tokens"]
        print(f"{path}: {report['dtype']}, {rows} rows, {tokens['equal']} of {tokens['compared']} tokens")
        for figure in ("rel_rmse", "max_abs"):
            for one_position, name in ((False, figure), (True, f"{figure} of a step")):
                found = ratios(report, figure, one_position)
                limit = getattr(TOLERANCES[report["dtype"]], f"step_{figure}" if one_position else figure)
                median = statistics.median(ratio for ratio, _ in found)
                print(f"  {name}: {found[0][0]:.1f} of {limit}, median {median:.2f}, {found[0][1]}")
        print(f"  log_mel: {max(row['max_abs'] for row in report['layers'] if row['path'] == 'log_mel'):.1e}")


if __name__ == "__main__":
    main()
