"""The command line: options in, one call, words out.

Errors are one paragraph on stderr and the exit status of the exception: 1 a check failed, 2 wrong
usage or unusable input.
"""

import json
import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from whisper2max.errors import UsageError, Whisper2MaxError
from whisper2max.ir import DTYPES

app = typer.Typer(
    help="PyTorch Whisper to Modular MAX: convert, prove, transcribe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Compiled graphs that are kept for models of the same dimensions.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

ArtifactPath = Annotated[Path, typer.Argument(help="Directory that convert wrote.", show_default=False)]
Audio = Annotated[
    list[Path], typer.Option("--audio", help="Judge on this file instead of the shipped sample; repeatable.")
]
TokenizerOption = Annotated[
    str | None, typer.Option("--tokenizer", help="tokenizer.json, a directory that holds one, or a hub id.")
]
CheckpointOption = Annotated[
    str | None,
    typer.Option("--checkpoint", help="OpenAI .pt, Hugging Face or CTranslate2 directory, or hub id."),
]

TargetOption = Annotated[
    str, typer.Option("--target", help="CPU to compile for: native, x86-64-v2, x86-64-v3 or x86-64-v4.")
]


Dtype = StrEnum("Dtype", DTYPES)


class OutputFormat(StrEnum):
    """Transcript formats."""

    txt = "txt"
    srt = "srt"
    vtt = "vtt"
    tsv = "tsv"
    json = "json"
    all = "all"


class Task(StrEnum):
    """What to do with speech."""

    transcribe = "transcribe"
    translate = "translate"


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """PyTorch Whisper to Modular MAX: convert, prove, transcribe."""


def say(message: object) -> None:
    """A line of progress, or a table, on stderr."""
    from rich.console import Console  # a transcription that succeeds has nothing to say

    Console(stderr=True, highlight=False).print(message, markup=False, soft_wrap=True)


@app.command()
def convert(
    size: Annotated[str | None, typer.Option("--size", help="tiny, base, small, medium, large-v3, turbo, ...")] = None,
    checkpoint: CheckpointOption = None,
    tokenizer: TokenizerOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Default: artifacts/NAME-DTYPE-TARGET, without float32 and native."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the weights.")] = Dtype.float32,
    target: TargetOption = "native",
    random_init: Annotated[
        int | None, typer.Option("--random-init", metavar="SEED", help="Random weights at the dimensions of --size.")
    ] = None,
    audio: Audio = [],  # noqa: B006
    keep_reference: Annotated[
        bool, typer.Option("--keep-reference", help="Store parts of the reference for `verify --replay`.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing artifact.")] = False,
) -> None:
    """Convert a PyTorch Whisper to a MAX artifact and prove it against PyTorch."""
    _need("torch", "transformers", "jinja2")
    from whisper2max.conversion import convert as run

    artifact = run(
        size=size,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        output=output,
        dtype=dtype.value,
        target=target,
        random_init=random_init,
        audio=audio,
        keep_reference=keep_reference,
        force=force,
        say=say,
    )
    _print_parity(artifact.manifest["parity"])
    typer.echo(str(artifact.path))


@app.command()
def verify(
    artifact: ArtifactPath,
    checkpoint: CheckpointOption = None,
    tokenizer: TokenizerOption = None,
    audio: Audio = [],  # noqa: B006
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Judge every block on the reference's own inputs too.")
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Compare with the kept reference instead; torch is not needed.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option("--against", help="Compare with this artifact instead; torch is not needed.")
    ] = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Write parity.json and parity.html to this directory.")
    ] = None,
) -> None:
    """Compare an artifact with the checkpoint it came from; exit status 1 when it differs."""
    of_torch = {"--checkpoint": checkpoint, "--tokenizer": tokenizer, "--isolated": isolated}
    without_torch = {"--replay": replay, "--against": against}
    chosen = [name for name, value in without_torch.items() if value]
    useless = [name for name, value in of_torch.items() if value] if chosen else []
    if replay and audio:
        useless.append("--audio")
    if len(chosen) > 1 or useless:
        raise UsageError(f"{' and '.join([*chosen, *useless])} do not go together")
    if chosen:
        report = _compare_without_torch(artifact, against, audio, report_to)
    else:
        _need("torch", "transformers", "jinja2")
        from whisper2max.verification import verify as run

        options = {"checkpoint": checkpoint, "tokenizer": tokenizer, "audio": audio, "isolated": isolated}
        report = run(artifact, **options, report_to=report_to, say=say)
    _print_parity(report.summary())
    if not report.passed:
        say(report.explanation())
        raise typer.Exit(1)


def _compare_without_torch(artifact: Path, against: Path | None, audio: list[Path], report_to: Path | None):
    from whisper2max.comparison import compare_with, replay_artifact
    from whisper2max.parity.inputs import load_inputs

    if against is None:
        report, inputs = replay_artifact(artifact, say)
    else:
        inputs = load_inputs(audio)
        report = compare_with(artifact, against, inputs, say)
    if report_to is not None:
        _need("jinja2")
        from whisper2max.parity.files import write_report

        write_report(report_to, report, inputs)
    return report


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="An artifact or a checkpoint.", show_default=False)],
    tokenizer: TokenizerOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print dimensions, graph, files, sizes, parity and provenance."""
    from whisper2max.inspection import inspect as run

    facts = run(path, tokenizer)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for name, value in facts.items():
        if name == "graph":
            typer.echo(f"graph:\n{value}", nl=False)
        elif name == "files":
            typer.echo("files:")
            for file, entry in value.items():
                typer.echo(f"  {entry['bytes']:>12,}  {entry['sha256'][:16]}  {file}")
        elif isinstance(value, dict):
            typer.echo(f"{name}:")
            for key, entry in value.items():
                typer.echo(f"  {key}: {entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False)}")
        else:
            typer.echo(f"{name}: {value}")


@app.command("compile")
def compile_(artifact: ArtifactPath, target: TargetOption = "native") -> None:
    """Rebuild the graphs of an artifact from its model.py, without torch. Runs code of the artifact."""
    from whisper2max.rebuild import rebuild

    rebuilt = rebuild(artifact, say, target)
    say(f"rebuilt for {target}, not verified: `whisper2max verify {artifact}` compares it with PyTorch")
    typer.echo(str(rebuilt.path))


@app.command()
def transcribe(
    artifact: ArtifactPath,
    audio: Annotated[list[str], typer.Argument(help="Audio files.", show_default=False)],
    language: Annotated[str | None, typer.Option("--language", help="Code or name; detected by default.")] = None,
    task: Annotated[Task, typer.Option("--task")] = Task.transcribe,
    initial_prompt: Annotated[
        str | None, typer.Option("--initial_prompt", help="Text before the first window.")
    ] = None,
    condition_on_previous_text: Annotated[
        bool, typer.Option("--condition_on_previous_text/--no_condition_on_previous_text")
    ] = True,
    without_timestamps: Annotated[bool, typer.Option("--without_timestamps")] = False,
    no_speech_threshold: Annotated[float, typer.Option("--no_speech_threshold")] = 0.6,
    logprob_threshold: Annotated[float, typer.Option("--logprob_threshold")] = -1.0,
    output_format: Annotated[OutputFormat | None, typer.Option("--output_format", help="Also write files.")] = None,
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where --output_format writes.")] = Path("."),
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch_size",
            min=1,
            help="Windows to decode together, cut at pauses, each without the text of the others. "
            "By default they are decoded in turn.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="0: all cores.")] = 0,
) -> None:
    """Transcribe recordings with an artifact; torch is not needed."""
    from whisper2max.runtime.model import load
    from whisper2max.runtime.writers import to_result, write

    model = load(artifact, cpu_threads=threads)
    for path in audio:
        segments, info = model.transcribe(
            path,
            language=language,
            task=task.value,
            initial_prompt=initial_prompt,
            condition_on_previous_text=condition_on_previous_text,
            without_timestamps=without_timestamps,
            no_speech_threshold=no_speech_threshold,
            log_prob_threshold=logprob_threshold,
            batch_size=batch_size,
        )
        kept = []
        for segment in segments:
            typer.echo(segment.text.strip())
            kept.append(segment)
        if output_format is not None:
            write(to_result(kept, info.language), path, output_dir, output_format.value)


@cache_app.command("list")
def cache_list() -> None:
    """Print the compiled graphs that are kept."""
    from whisper2max.cache import GraphCache, cache_dir

    entries = GraphCache().entries()
    for entry in entries:
        typer.echo(f"{entry.bytes:>12,}  {entry.created}  {entry.key[:16]}  {entry.name}")
    typer.echo(f"{sum(entry.bytes for entry in entries):>12,} bytes in {len(entries)} graphs in {cache_dir()}")


@cache_app.command("clear")
def cache_clear() -> None:
    """Remove every compiled graph that is kept."""
    from whisper2max.cache import GraphCache

    typer.echo(f"{GraphCache().clear():,} bytes freed")


def _print_parity(summary: dict) -> None:
    from whisper2max.parity.terminal import parity_table

    say(parity_table(summary))


def _need(*modules: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(f"this command needs {', '.join(missing)}: pip install 'whisper2max[convert]'")


def run() -> int:
    """Do what the command line asks; return the exit status."""
    warnings.showwarning = lambda message, *rest: say(f"warning: {message}")
    debug = sys.argv[1:2] == ["--debug"]
    try:
        app()
    except SystemExit as finished:
        return finished.code or 0
    except Whisper2MaxError as error:
        if debug:
            raise
        say(f"error: {error}")
        return error.exit_code
    return 0


def main() -> None:
    """Entry point of the `whisper2max` command."""
    status = run()
    # nothing is left to do; to tear MAX 26.7 down takes 0.2 s, and now and then aborts
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
