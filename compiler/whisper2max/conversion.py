"""convert: from a checkpoint to a published artifact, or to OUT.failed/ and an error."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import safetensors.torch
import torch

import whisper2max
from whisper2max.artifact.artifact import Artifact, open_artifact
from whisper2max.artifact.listing import scan
from whisper2max.artifact.manifest import write_manifest
from whisper2max.artifact.publication import Publication
from whisper2max.build.compiler import Source, compile_graphs, compiler_versions
from whisper2max.build.target import NATIVE, REFUSED_ON_GPUS, resolve_to_prove
from whisper2max.checkpoints import Checkpoint, choose_source
from whisper2max.core.errors import ArtifactError, ParityError, UsageError
from whisper2max.core.held import HeldFiles
from whisper2max.core.memory import return_large_blocks
from whisper2max.core.printable import printable
from whisper2max.graph import passes
from whisper2max.graph.emit import emit
from whisper2max.graph.ir import GraphSpec
from whisper2max.graph.walker import WalkedModule, walk
from whisper2max.parity.html import write_report
from whisper2max.parity.inputs import load_inputs
from whisper2max.parity.proof import prove
from whisper2max.parity.taps import graph_taps


def silent(message: str) -> None:
    """Say nothing."""


def convert(
    *,
    size: str | None = None,
    checkpoint: str | Path | None = None,
    module: torch.nn.Module | None = None,
    tokenizer: str | Path | None = None,
    output: str | Path | None = None,
    dtype: str = "float32",
    target: str = NATIVE,
    random_init: int | None = None,
    audio: Sequence[str | Path] = (),
    keep_reference: bool = False,
    force: bool = False,
    say: Callable[[str], None] = silent,
) -> Artifact:
    """Convert a PyTorch Whisper, prove the result against it, and publish the artifact.

    Args:
        size: a name such as "base"; looked for in the hub cache, on the hub, among packaged weights.
        checkpoint: an OpenAI .pt file, a Hugging Face or CTranslate2 directory, or a hub id.
        module: a live transformers or openai-whisper model; exactly one of the three is given.
        tokenizer: a tokenizer.json, a directory that holds one, or a hub id; needed where the source has none.
        output: the directory to publish; by default artifacts/NAME-DTYPE-TARGET, without float32 and native.
        dtype: of the weights, one that `passes.PASSES` has for the target's backend.
        target: what to compile for, a name of `build.target.TARGETS`: this machine, a lower x86-64 level, or a GPU,
            which need not be there: then the network is judged on this CPU, and the graphs stay unexecuted. Several
            GPUs are named with commas between; their graphs share the weights.
        random_init: seed; the dimensions of `size` with random weights instead of its checkpoint.
        audio: files to judge on instead of the sample that comes with the package.
        keep_reference: store parts of the reference in the artifact, so that it can be judged again without torch.
        force: replace an existing artifact.
        say: told about every stage.

    Returns:
        The published artifact.

    Raises:
        ParityError: the compiled graphs differ from the module; nothing is published, OUT.failed/ is kept.
        Whisper2MaxError: unusable input; nothing is written.
    """
    targets = resolve_to_prove(target)
    resolved = targets[0]
    if resolved.gpu and dtype in REFUSED_ON_GPUS:
        raise UsageError(f"dtype {dtype} is not offered for the GPU {target}: {REFUSED_ON_GPUS[dtype]}; use bfloat16.")
    if dtype not in (offered := passes.PASSES[resolved.backend]):
        raise UsageError(f"dtype {dtype!r} is not offered for target {target}; choose one of {', '.join(offered)}")
    return_large_blocks()
    source = choose_source(size=size, checkpoint=checkpoint, module=module, random_init=random_init)
    unusual = [word for word in (dtype, *target.split(",")) if word not in ("float32", NATIVE)]
    output = Path(output or Path("artifacts") / "-".join([source.name, *unusual]))
    inputs = load_inputs(audio)
    publication = Publication(output, force)
    with publication as staging:
        opened = source.open(tokenizer, say)
        came_from = opened.source
        say(f"checkpoint: {came_from['format']}, {came_from['name']}, stored as {came_from['stored_dtype']}")
        for note in opened.notes:
            say(f"note: {note}")
        walked, spec, written = write_sources(staging, opened, dtype, resolved.backend)
        say(f"walked {len(walked.source_paths)} modules and tensors, wrote model.py and weights")
        files = HeldFiles(staging, scan(staging)[0], ArtifactError)
        judged_here = graph_taps(spec) if resolved.judged == resolved else None
        compiled = compile_graphs(Source.of(files), staging, resolved, say, judged_here)
        for each in targets[1:]:
            compiled |= compile_graphs(Source.of(files), staging, each, say, folder=each.name)
        files.hold(compiled)
        files.require_sha256({**written, **compiled})
        files.sha256()  # taken before the proof, which is of these very bytes
        keep_to = staging if keep_reference else None
        also = [each.name for each in targets[1:]]
        report = prove(files, opened, walked, dtype, resolved, inputs, versions(), say, keep_to=keep_to, also=also)
        opened.require_unchanged()
        files.require_unchanged()  # what is written into the manifest is read again there
        write_report(staging, report, inputs)
        if not report.passed:
            failed = publication.fail(report.explanation())
            raise ParityError(f"{report.explanation()} Nothing was published; {failed} keeps sources and report.")
        fields = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "name": printable(source.name),
            "dims": opened.dims.to_dict(),
            "dtype": dtype,
            "target": resolved.to_dict(),
            "source": {**_printable(opened.source), "request": source.record},
            "versions": versions(),
            "verified": True,
            "executed": resolved.gpu is None,
            "also": [{**each.to_dict(), "executed": False} for each in targets[1:]],
            "parity": report.summary(),
        }
        write_manifest(staging, fields, files.sha256())
    say(f"published {output}" + (f"; its graphs were compiled for {target} and not executed" if resolved.gpu else ""))
    return open_artifact(output)


def write_sources(
    directory: Path, checkpoint: Checkpoint, dtype: str, backend: str = "cpu"
) -> tuple[WalkedModule, GraphSpec, dict[str, str]]:
    """Write everything of an artifact that needs no compiler: graph, model.py, kernels, weights, tokenizer.

    Returns:
        What the walk found, the graph after the passes of the dtype, and the hash of every file that was written by
        name, but for the weights, which the audit compares value by value.
    """
    walked = walk(checkpoint.module, checkpoint.dims)
    spec, tensors = passes.apply(dtype, walked.spec, walked.tensors, backend)
    generation = json.dumps(checkpoint.generation, indent=2, ensure_ascii=False)
    texts = {
        "graph.txt": spec.to_text().encode(),
        "tokenizer.json": checkpoint.tokenizer_json,
        "generation.json": f"{generation}\n".encode(),
    }
    code = Source.generated(emit(spec))
    code.write(directory)
    for name, content in texts.items():
        (directory / name).write_bytes(content)
    safetensors.torch.save_file(tensors, directory / "weights.safetensors")
    written = {name: hashlib.sha256(content).hexdigest() for name, content in {**texts, **code.files()}.items()}
    return walked, spec, written


def versions() -> dict[str, str]:
    """Versions of everything that had a part in an artifact."""
    torch_side = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return {**compiler_versions(), "whisper2max": whisper2max.__version__, **torch_side}


def _printable(source: dict) -> dict:
    """Names of files as text, which a manifest is made of; they need not be any."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in source.items()}
