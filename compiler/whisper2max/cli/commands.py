"""The commands and their options: each is one call, and says what came of it."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import whisper2max
from whisper2max.cli.terminal import say, show
from whisper2max.core.address_space import require_room_for_max
from whisper2max.core.errors import UsageError
from whisper2max.graph.ir import DTYPES
from whisper2max.runtime.options import TRANSCRIPTION_OPTIONS, TranscriptionOptions
from whisper2max.runtime.writers import OUTPUT_FORMATS, require_writable

app = typer.Typer(
    help="PyTorch Whisper to Modular MAX: convert, prove, transcribe.",
    context_settings={"help_option_names": ["--help", "-h"]},
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Compiled graphs that are kept for models of the same dimensions.")
app.add_typer(cache_app, name="cache")

ArtifactPath = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="Directory that convert wrote.", show_default=False)
]
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
    str,
    typer.Option(
        "--target", help="What to compile for: native, x86-64-v2 to -v4, max-cpu, or GPUs: sm_90, or sm_80,sm_90."
    ),
]
ModelOption = Annotated[str | None, typer.Option("--model", hidden=True)]  # what other programs call it


Dtype = StrEnum("Dtype", DTYPES)
OutputFormat = StrEnum("OutputFormat", OUTPUT_FORMATS)
DEFAULTS = TranscriptionOptions()


class Task(StrEnum):
    """What to do with speech."""

    transcribe = "transcribe"
    translate = "translate"


def _show_version(wanted: bool) -> None:
    if wanted:
        show(f"whisper2max {whisper2max.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; stands anywhere.")] = False,
) -> None:
    """PyTorch Whisper to Modular MAX: convert, prove, transcribe."""


@app.command(context_settings={"allow_extra_args": True})
def convert(
    context: typer.Context,
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
    model: ModelOption = None,
) -> None:
    """Convert a PyTorch Whisper to a MAX artifact and prove it against PyTorch."""
    if model is not None or context.args:
        named = context.args[0] if model is None else model
        raise UsageError(
            f"convert is told by an option what to convert: `--size {named}` if that is a published size, "
            f"`--checkpoint {named}` if it is a file, a directory or a hub id."
        )
    _need("torch", "transformers", "jinja2")
    require_room_for_max()
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
    show(str(artifact.path))


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
    device: Annotated[
        str,
        typer.Option(
            "--device", help="cuda or cuda:NUMBER judges graphs for a GPU there; cpu judges their network on this CPU."
        ),
    ] = "cpu",
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
    if against is not None and device != "cpu":
        useless.append("--device")
    if len(chosen) > 1 or useless:
        raise UsageError(f"{' and '.join([*chosen, *useless])} do not go together")
    require_room_for_max()
    if report_to is not None:
        require_writable(report_to, "--report")
    if chosen:
        report = _compare_without_torch(artifact, against, audio, report_to, device)
    else:
        _need("torch", "transformers", "jinja2")
        from whisper2max.verification import verify as run

        options = {"checkpoint": checkpoint, "tokenizer": tokenizer, "audio": audio, "isolated": isolated}
        report = run(artifact, **options, report_to=report_to, device=device, say=say)
    _print_parity(report.summary())
    if not report.passed:
        say(report.explanation(), keep="\n")
        raise typer.Exit(1)


def _compare_without_torch(
    artifact: Path, against: Path | None, audio: list[Path], report_to: Path | None, device: str
):
    from whisper2max.parity.comparison import compare_with, replay_artifact
    from whisper2max.parity.inputs import load_inputs

    if against is None:
        if device != "cpu":
            _need("jinja2")  # for the report of an artifact that is marked executed
        report, inputs = replay_artifact(artifact, say, device)
    else:
        inputs = load_inputs(audio)
        report = compare_with(artifact, against, inputs, say)
    if report_to is not None:
        _need("jinja2")
        from whisper2max.parity.html import write_report

        write_report(report_to, report, inputs)
    return report


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="An artifact or a checkpoint.", show_default=False)],
    tokenizer: TokenizerOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print dimensions, graph, files, sizes, parity and provenance."""
    from whisper2max.cli.description import describe
    from whisper2max.cli.inspection import inspect as run

    facts = run(path, tokenizer)
    if as_json:
        show(json.dumps(facts, indent=2))
        return
    for line in describe(facts):
        show(line)


@app.command("compile")
def compile_(artifact: ArtifactPath, target: TargetOption = "native") -> None:
    """Rebuild the graphs of an artifact from its model.py, without torch. Runs code of the artifact."""
    require_room_for_max()
    from whisper2max.build.rebuild import rebuild

    rebuilt = rebuild(artifact, say, target)
    say(f"rebuilt for {target}, not verified: `whisper2max verify {artifact}` compares it with PyTorch")
    show(str(rebuilt.path))


@app.command()
def transcribe(
    context: typer.Context,
    artifact: ArtifactPath,
    audio: Annotated[
        list[str] | None,
        typer.Argument(metavar="AUDIO", help="Sound or video files; - is standard input.", show_default=False),
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", help="Code or name; auto, the default, detects it.")
    ] = None,
    task: Annotated[Task, typer.Option("--task")] = Task.transcribe,
    initial_prompt: Annotated[
        str | None, typer.Option("--initial_prompt", help="Text before the first window.")
    ] = None,
    condition_on_previous_text: Annotated[
        bool | None,
        typer.Option(
            "--condition_on_previous_text/--no_condition_on_previous_text",
            help="Decode each window after the text before it; by default unless there is a --batch_size.",
        ),
    ] = DEFAULTS.condition_on_previous_text,
    without_timestamps: Annotated[bool, typer.Option("--without_timestamps")] = DEFAULTS.without_timestamps,
    no_speech_threshold: Annotated[float, typer.Option("--no_speech_threshold")] = DEFAULTS.no_speech_threshold,
    log_prob_threshold: Annotated[float, typer.Option("--logprob_threshold")] = DEFAULTS.log_prob_threshold,
    output_format: Annotated[
        OutputFormat | None, typer.Option("--output_format", "-f", help="Also write files.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", "-o", help="Where --output_format writes; here by default.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch_size",
            min=1,
            help="Windows to decode together, cut at pauses, each without the text of the others. "
            "By default they are decoded in turn.",
        ),
    ] = DEFAULTS.batch_size,
    audio_stream: Annotated[
        int | None,
        typer.Option("--audio_stream", min=0, help="Which audio stream of a file; by default as ffmpeg chooses."),
    ] = DEFAULTS.audio_stream,
    container_times: Annotated[
        bool, typer.Option("--container_times", help="Times of the film, if its sound begins later or has gaps.")
    ] = DEFAULTS.container_times,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda or cuda:NUMBER; auto is what the artifact was compiled for.")
    ] = "auto",
    threads: Annotated[int, typer.Option("--threads", min=0, help="0: one per CPU, within the quota.")] = 0,
    model: ModelOption = None,
) -> None:
    """Transcribe recordings with an artifact; torch is not needed.

    Every recording is tried. The exit status is 1 if some could not be transcribed, and 2 if none could be.
    """
    require_room_for_max()
    from whisper2max.cli.transcription import Files, check_arguments, plan, transcribe_recordings
    from whisper2max.runtime.model import load

    recordings = audio or []
    check_arguments(artifact, recordings, model, language)
    files = None
    if output_format is not None:
        files = Files(output_dir or Path("."), output_format.value)
        plan(recordings, files)
        require_writable(files.directory)
    elif output_dir is not None:
        raise UsageError("--output_dir says where files are written; say with --output_format which, such as srt.")
    loaded = load(artifact, device=device, cpu_threads=threads)
    chosen = {name: value for name, value in context.params.items() if name in TRANSCRIPTION_OPTIONS}
    raise typer.Exit(transcribe_recordings(loaded, recordings, chosen, files, debug=bool(context.obj)))


@cache_app.command("list")
def cache_list() -> None:
    """Print the compiled graphs that are kept."""
    from whisper2max.build.cache import GraphCache, cache_dir

    entries = GraphCache().entries()
    for entry in entries:
        show(f"{entry.bytes:>12,}  {entry.created}  {entry.key[:16]}  {entry.name}", keep="")
    show(f"{sum(entry.bytes for entry in entries):>12,} bytes in {len(entries)} graphs in {cache_dir()}")


@cache_app.command("clear")
def cache_clear() -> None:
    """Remove every compiled graph that is kept."""
    from whisper2max.build.cache import GraphCache

    show(f"{GraphCache().clear():,} bytes freed")


def _print_parity(summary: dict) -> None:
    from whisper2max.cli.parity_table import parity_table

    say(parity_table(summary))


def _need(*modules: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(f"this command needs {', '.join(missing)}: pip install 'whisper2max[convert]'")
