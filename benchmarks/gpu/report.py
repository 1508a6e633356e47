"""What was measured, as markdown: conditions, one table for each figure, what differs, and what failed."""

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {
    "encoder": "Encoder, windows given as spectrograms",
    "audio": "What the decoder hears of audio states, of all layers",
    "extend": "Extend: four tokens of every row, and the logits of two",
    "step": "Step: a token of every row, and the choice of the next, on the device",
    "token": "Token: the same as decoding does it, from the host and back",
    "one window": "One window of 30 s, samples to text",
    "one window compiled": "The same beside transformers with a compiled decoder",
    "many windows": "Windows of 30 s together, samples to text",
}
REFERENCES = ("whisper2max, replayed", "whisper2max", "whisper2max, transcribe")
MEANINGLESS = "**A rehearsal without a GPU: no kernel ran, so no number and no token below means anything.**"


def report(about: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of a record."""
    results = {name: part["result"] for name, part in parts.items() if part["status"] == "done"}
    lines = ["# On a GPU", ""]
    if about.get("rehearsal"):
        lines += [MEANINGLESS, ""]
    lines += conditions(about, results)
    figures: dict[str, list[Mapping[str, Any]]] = {}
    for result in results.values():
        if "figure" in result:
            figures.setdefault(result["figure"], []).append(result)
    for figure, found in figures.items():
        lines += ["", f"## {TITLES[figure]}", "", *table(found)]
    if any(name.startswith("values") for name in results):
        lines += ["", "## Values", "", *values(results)]
    if "tokens" in results:
        lines += ["", "## Tokens", "", *tokens(results)]
    return "\n".join([*lines, *endings(parts, figures)]) + "\n"


def conditions(about: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """The machine, versions, and when."""
    machine, load, torch = (results.get(name, {}) for name in ("machine", "load", "torch"))
    said = [f"{about.get('artifact')} of whisper2max {about.get('commit')}, {about.get('started')}"]
    said += [f"GPU: {listed(machine['gpu'])}"] if machine else []
    said += [f"GPU afterwards: {listed(results['machine after it'])}"] if "machine after it" in results else []
    said += [f"MAX {load['max']} on {load['device']}"] if load else []
    said += [f"PyTorch: {listed(torch)}"] if torch else []
    if machine:
        packages = listed({name: version for name, version in machine.get("packages", {}).items() if version})
        said += [f"{machine['processor']}, {machine['cpus']} CPUs, Python {machine['python']}; {packages}"]
    return [f"- {line}" for line in said]


def listed(named: Mapping[str, Any]) -> str:
    """Names and values on one line."""
    return ", ".join(f"{name} {value}" for name, value in named.items())


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Contenders by sizes: medians, in brackets the ratio to ours; above 1 is slower.

    Args:
        found: results of one figure at one size each; "medians" are seconds.
    """
    scale, unit = (1e3, "ms") if found[0]["unit"] == "ms" else (1.0, "s")
    names = list(dict.fromkeys(name for result in found for name in (*result["medians"], *result["failed"])))
    spoken = any("audio" in result for result in found)
    heads = [f"{unit}, medians", *(f"at {result['size']}, of {runs(result)}" for result in found)]
    heads += ["times real time"] if spoken else []
    lines = [row(heads), row(["---", *["---:"] * (len(heads) - 1)])]
    for name in names:
        cells = []
        for result in found:
            medians = result["medians"]
            base = next((medians[each] for each in REFERENCES if each in medians), None)
            value = medians.get(name)
            if value is None:
                cells.append("**failed**" if name in result["failed"] else "–")
            else:
                cells.append(f"{scale * value:.3f}" + (f" ({value / base:.2f})" if base else ""))
        if spoken:
            value = found[-1]["medians"].get(name)
            cells.append(f"{found[-1]['audio'] / value:.0f}" if value else "")
        lines.append(row([name, *cells]))
    return lines


def runs(result: Mapping[str, Any]) -> str:
    """How many runs the medians are of."""
    counts = {len(taken) for taken in result["values"].values()}
    return f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(max(counts, default=0))


def values(results: Mapping[str, Any]) -> list[str]:
    """Relative errors against PyTorch in float32 on the same GPU."""
    lines = ["Relative errors against PyTorch in float32, all on the same weights and inputs.", ""]
    whos: list[str] = []
    rows = []
    for name, result in results.items():
        if not name.startswith("values"):
            continue
        for graph, errors in result.items():
            if graph == "choices":
                rows.append((f"choices{name.removeprefix('values')}: {errors['right']} of {errors['of']} right", {}))
            else:
                whos += [who for who in errors if who not in whos]
                rows.append((f"{graph}{name.removeprefix('values')}", errors))
    lines += [row(["", *whos]), row(["---", *["---:"] * len(whos)])]
    return lines + [row([title, *(f"{of[who]:.1e}" if who in of else "" for who in whos)]) for title, of in rows]


def tokens(results: Mapping[str, Any]) -> list[str]:
    """Where what was heard is another than expected, recording by recording."""
    lines = []
    for name, heard in results["tokens"].items():
        lines.append(f"- **{name}**, {len(heard['tokens'])} tokens: {shown(heard['text'])}")
        lines.append(f"  - against float32 on a CPU: {parted(heard['expected'])}")
        if not heard["expected"]["equal"]:
            lines.append(f"  - expected: {shown(heard['expected text'])}")
        lines.append(f"  - once more: {parted(heard['again'])}; together with others: {parted(heard['together'])}")
        theirs = results.get("tokens of transformers", {}).get(name)
        if theirs:
            lines.append(
                f"  - text against transformers in bfloat16: {parted(theirs['ours'])}; transformers against float32 "
                f"on a CPU: {parted(theirs['expected'])}"
            )
            if not theirs["ours"]["equal"]:
                lines.append(f"  - transformers: {shown(theirs['text'])}")
    return lines


def shown(text: str) -> str:
    """A text on one line, not too long."""
    text = " ".join(text.split())
    return f"{text[:500]}.." if len(text) > 500 else text or "(nothing)"


def parted(difference: Mapping[str, Any]) -> str:
    """In words."""
    if difference["equal"]:
        return f"all {difference['of']} equal"
    return f"**differs** from the {difference['first'] + 1}. of {difference['of']} tokens on"


def endings(parts: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What failed and what was left out, with reasons; the whole tracebacks are in results.json."""
    failed = [(name, last_line(part["reason"])) for name, part in parts.items() if part["status"] == "failed"]
    failed += [
        (f"{figure} at {result['size']}, {who}", last_line(reason))
        for figure, found in figures.items()
        for result in found
        for who, reason in result["failed"].items()
    ]
    skipped = [(name, part["reason"]) for name, part in parts.items() if part["status"] == "skipped"]
    lines = []
    for title, reasons in (("Failed", failed), ("Left out", skipped)):
        if reasons:
            lines += ["", f"## {title}", "", *(f"- {name}: {reason}" for name, reason in reasons)]
    return lines


def last_line(text: str) -> str:
    """Of a traceback: what was raised."""
    return (text.strip().splitlines() or [""])[-1][:500] if text.startswith("Traceback") else text.split("\n")[0][:500]


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
