"""verify: compare an artifact with the checkpoint it came from, at any later time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from whisper2max.artifact.artifact import open_artifact
from whisper2max.build.target import resolve
from whisper2max.checkpoints import choose_source, recorded_source
from whisper2max.conversion import silent, versions
from whisper2max.core.errors import UsageError
from whisper2max.core.memory import return_large_blocks
from whisper2max.graph.walker import walk
from whisper2max.parity.graphs import place_to_judge
from whisper2max.parity.html import write_report
from whisper2max.parity.inputs import load_inputs
from whisper2max.parity.marking import mark_proven
from whisper2max.parity.proof import prove
from whisper2max.parity.report import ParityReport


def verify(
    artifact: str | Path,
    *,
    checkpoint: str | Path | None = None,
    module: torch.nn.Module | None = None,
    tokenizer: str | Path | None = None,
    audio: Sequence[str | Path] = (),
    isolated: bool = False,
    report_to: str | Path | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = silent,
) -> ParityReport:
    """Audit the weights of an artifact and judge its graphs again, layer by layer and as they ship.

    An artifact that is not marked verified, because its graphs were rebuilt, or not executed, because they were
    compiled for a GPU, becomes so when it passes; otherwise nothing in it is written.

    Args:
        artifact: the directory.
        checkpoint: where the checkpoint is; by default what the manifest names, if it can be found by name.
        module: a live transformers or openai-whisper model instead of a checkpoint.
        tokenizer: as for convert.
        audio: files to judge on instead of the sample that comes with the package.
        isolated: feed every block the reference's own inputs too, so that an error is blamed on its maker.
        report_to: a directory for parity.json and parity.html.
        device: where to judge graphs that were compiled for a GPU: "cuda" or "cuda:NUMBER" there; "cpu" judges their
            network on this CPU, as convert does.
        say: told about every stage.

    Raises:
        Whisper2MaxError: the artifact or the checkpoint cannot be used, or a file of the artifact was changed
            meanwhile. A comparison that fails does not raise; `ParityReport.passed` is False.
    """
    if checkpoint is not None and module is not None:
        raise UsageError("give a checkpoint or a module, not both")
    opened = open_artifact(artifact, warn_unverified=False)
    gpu, name = place_to_judge(device, opened)
    if checkpoint is None and module is None:
        source = recorded_source(opened.manifest["source"])
    else:
        source = choose_source(checkpoint=checkpoint, module=module)
    return_large_blocks()
    inputs = load_inputs(audio)
    original = source.open(tokenizer, say)
    if original.dims != opened.dims:
        raise UsageError(f"the checkpoint has {original.dims}, the artifact {opened.dims}: another model")
    walked = walk(original.module, original.dims)
    also = [each["name"] for each in opened.manifest["also"]]
    files, target, options = opened.files_for(name), resolve(name), {"isolated": isolated, "gpu": gpu, "also": also}
    report = prove(files, original, walked, opened.dtype, target, inputs, versions(), say, **options)
    original.require_unchanged()
    opened.files.require_unchanged(reread=True)
    if report_to is not None:
        write_report(Path(report_to), report, inputs)
    mark_proven(opened, name, report, inputs, say)
    return report
