"""This project and its peers side by side: make bench, or python benchmarks/run.py --help.

One peer after the other in processes of their own, round after round, with the same weights, clips, options and
threads. Writes results.md, results.svg and results.json. docs/benchmarks.md says what the figures mean.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from chart import chart
from clips import ROOT, SANE_WER, audio_folder, check_text, clips
from figures import FIGURES
from measure import conditions
from peers import PACKAGES, PEERS, artifact_name
from rounds import Results, WorkerFailed, alternate
from table import spread, table

HERE = Path(__file__).resolve().parent
ARTIFACTS = [ROOT / "artifacts" / name for name in ("base", "base-bfloat16", "base-int8")]
WORKER_SECONDS = 900
PREPARE_SECONDS = 3600


def main() -> int:
    """0 if every figure was measured or is not offered, 1 if one failed."""
    asked = arguments()
    audio = audio_folder(asked.audio)
    peers = {artifact_name(artifact): artifact for artifact in asked.artifacts} | dict.fromkeys(PEERS)
    peers = {name: peers[name] for name in selected(peers, asked.peers, "peers")}
    ours = [name for name, artifact in peers.items() if artifact]
    results = Results(list(peers), with_sources(selected(FIGURES, asked.only, "figures")))
    threads = asked.threads or len(os.sched_getaffinity(0))
    by_file = {clip.file: clip for clip in clips(audio)}
    load_before = os.getloadavg()[0]

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def ask(peer: str, figure: str, limit: float = WORKER_SECONDS) -> dict:
        command = [sys.executable, HERE / "worker.py", peer, figure]
        command += ["--models", asked.models, "--audio", audio, "--threads", threads]
        command += ["--artifact", peers[peer]] if peers[peer] else []
        seconds, output = run(command, limit, threads)
        answer = json.loads(output) | ({"value": seconds} if figure == "cold" else {})
        if figure == "wer" and "texts" in answer:
            scored = run([sys.executable, HERE / "score.py", audio], limit, threads, json.dumps(answer["texts"]))
            answer["value"] = float(scored[1])
        return answer

    def check(figure: str, answer: dict) -> None:
        if figure == "wer":
            if not answer["value"] <= 100 * SANE_WER:
                raise ValueError(f"a word error rate of {answer['value']:.1f} % is none of this model")
            return
        for file, text in answer.get("texts", {}).items():
            check_text(by_file[file], text)

    def write() -> None:
        reference = asked.reference or next((name for name in reversed(ours) if measured(results, name)), None)
        if reference is None:
            reference = results.peers[0]
        where = conditions(PACKAGES)
        how = (
            f"{where}; {threads} thread(s), {asked.rounds} round(s), load average {load_before:.2f} before. "
            "Whisper base, language given, greedy at temperature 0 without fallback, windows decoded without the text "
            "before them."
        )
        apart = spread(results)
        asked.output.mkdir(parents=True, exist_ok=True)
        (asked.output / "results.md").write_text(table(results, reference, [how, apart]), encoding="utf-8")
        (asked.output / "results.svg").write_text(chart(results, set(ours), where), encoding="utf-8")
        document = {"conditions": how, "reference": reference, **asdict(results)}
        (asked.output / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    for peer in results.peers:
        started = time.monotonic()
        try:
            ask(peer, "prepare", PREPARE_SECONDS)
        except WorkerFailed as reason:
            say(f"prepare, {peer}: FAILED: {reason}")
            for figure in results.figures:
                results.failed.setdefault(figure, {})[peer] = f"its files could not be made: {reason}"
        else:
            say(f"prepare, {peer}: {time.monotonic() - started:.0f} s")
    alternate(results, asked.rounds, ask, check, say, after_round=write)
    print((asked.output / "results.md").read_text())
    say(f"written: results.md, results.svg and results.json in {asked.output}")
    return int(any(results.failed.values()))


def run(command: list, limit: float, threads: int, given: str = "") -> tuple[float, str]:
    """(wall seconds, last line of standard output) of a process.

    Raises:
        WorkerFailed: it failed, with the end of what it wrote to standard error.
    """
    count = str(threads)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": count, "TOKENIZERS_PARALLELISM": "false"}
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [str(part) for part in command], input=given, capture_output=True, text=True, timeout=limit, env=environment
        )
    except subprocess.TimeoutExpired:
        raise WorkerFailed(f"no answer within {limit:.0f} s") from None
    seconds = time.perf_counter() - started
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        reason = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:] or ["nothing on stderr"]
        if os.environ.get("BENCH_DEBUG"):
            print(done.stderr, file=sys.stderr)
        raise WorkerFailed(f"exit status {done.returncode}: {reason[0][:500]}")
    return seconds, lines[-1]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--only", nargs="+", metavar="FIGURE", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="parts of names, as in the table")
    parser.add_argument("--artifacts", nargs="*", type=Path, default=ARTIFACTS, help="ours; converted where missing")
    parser.add_argument("--reference", help="peer that ratios are taken against; default: the last artifact measured")
    parser.add_argument("--threads", type=int, default=0, help="default 0, all cores")
    parser.add_argument("--audio", help="folder of clips; default $WHISPER2MAX_AUDIO, then ../shared/audio")
    parser.add_argument("--models", type=Path, default=HERE / "models", help="where the peers' files are kept")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the results")
    asked = parser.parse_args()
    if asked.rounds < 1 or not 0 <= asked.threads <= len(os.sched_getaffinity(0)):
        parser.error("--rounds is at least 1, --threads at most the number of cores")
    return asked


def selected(names, wanted: list[str] | None, what: str) -> list[str]:
    """The names that were asked for, in their own order; a figure by its whole name, a peer by a part of it."""
    if wanted is None:
        return list(names)
    fits = {each: [name for name in names if each == name or (what == "peers" and each in name)] for each in wanted}
    if missing := [each for each, found in fits.items() if not found]:
        raise SystemExit(f"no {what} match {', '.join(missing)}; there are: {', '.join(names)}")
    return [name for name in names if any(name in found for found in fits.values())]


def with_sources(figures: list[str]) -> list[str]:
    """The figures, and those that have to be measured to get them."""
    wanted = {*figures, *(FIGURES[figure].source for figure in figures)}
    return [figure for figure in FIGURES if figure in wanted]


def measured(results: Results, peer: str) -> bool:
    """Whether the peer has any figure."""
    return any(results.median(figure, peer) is not None for figure in results.figures)


if __name__ == "__main__":
    sys.exit(main())
