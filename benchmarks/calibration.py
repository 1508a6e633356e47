"""How close reports come to the limits of parity: python benchmarks/calibration.py PARITY_JSON ..

Reports are of `whisper2max verify ARTIFACT --audio FILE .. --report DIR`. Printed are the figures that the multiples in
`parity/tolerances.py` limit: the error of every row in units of torch's own, or of the dtype's epsilon.
"""

import json
import statistics
import sys
from pathlib import Path

from whisper2max.parity.tolerances import TOLERANCES


def ratios(report: dict, figure: str, step: bool) -> list[tuple[float, str]]:
    """Ratio and place of every row of the prompt and encoder, or of steps, the largest first."""
    tolerances = TOLERANCES[report["dtype"]]
    floor = tolerances.floor * tolerances.epsilon
    rows = [
        row
        for row in report["layers"] + report["logits"]
        if row[f"torch_{figure}"] is not None and (row["graph"] == "step") == step
    ]
    ratio_of = {
        f"{row['path']}, {row['build']} {row['graph']} {row['position']}, {row['input']}": row[figure]
        / max(row[f"torch_{figure}"], floor)
        for row in rows
    }
    return sorted(((ratio, place) for place, ratio in ratio_of.items()), reverse=True)


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        report = json.loads(path.read_text())
        rows, tokens = len(report["layers"]) + len(report["logits"]), report["tokens"]
        print(f"{path}: {report['dtype']}, {rows} rows, {tokens['equal']} of {tokens['compared']} tokens")
        for figure in ("rel_rmse", "max_abs"):
            for step, name in ((False, figure), (True, f"{figure} of a step")):
                found = ratios(report, figure, step)
                limit = getattr(TOLERANCES[report["dtype"]], f"step_{figure}" if step else figure)
                median = statistics.median(ratio for ratio, _ in found)
                print(f"  {name}: {found[0][0]:.1f} of {limit}, median {median:.2f}, {found[0][1]}")
        print(f"  log_mel: {max(row['max_abs'] for row in report['layers'] if row['path'] == 'log_mel'):.1e}")


if __name__ == "__main__":
    main()
