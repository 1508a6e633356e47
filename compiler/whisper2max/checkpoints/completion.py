"""The steps that every source format ends with: tokenizer, settings of generation, module, where it came from."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.generation import build_generation, configure_transformers
from whisper2max.checkpoints.settings import read_stated
from whisper2max.checkpoints.tokenizers import resolve_tokenizer
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.held import HeldFile
from whisper2max.core.printable import printable


def complete(
    module: Callable[[], torch.nn.Module],
    dims: ModelDimensions,
    source: dict[str, str],
    tokenizer: str | Path | None = None,
    *,
    beside: Path | None = None,
    settings: Sequence[tuple[str, dict]] = (),
    notes: Sequence[str] = (),
    held: Sequence[HeldFile] = (),
) -> Checkpoint:
    """Make a checkpoint of what the reader of a format found.

    Args:
        module: builds the module; called last, because reading the weights takes the most time.
        dims: its dimensions.
        source: "format", "name", "stored_dtype" and, where there is one, "sha256" for `Checkpoint.source`.
        tokenizer: as for `open_checkpoint`.
        beside: the directory of the weights, in which a tokenizer may lie.
        settings: name and content of every configuration that states settings of generation; the first goes first.
        notes: sentences to tell the user so far.
        held: the files of the weights.

    Raises:
        CheckpointError: settings or weights cannot be used, or a file of the weights was changed meanwhile.
        TokenizerError: no tokenizer is found, or it belongs to another model.
    """
    notes = list(notes)
    resolved = resolve_tokenizer(dims.n_vocab, tokenizer, beside)
    stated = read_stated(settings, resolved.tokenizer, notes)
    generation = build_generation(resolved.tokenizer, dims, resolved.origin, stated, notes)
    built = module()
    if hasattr(built, "generation_config"):  # openai-whisper's module has no settings
        configure_transformers(built, generation, resolved.tokenizer.padding)
    for file in held:
        file.require_unchanged()
    source = {"revision": None, "sha256": None, **source, "name": printable(source["name"])}
    return Checkpoint(built, dims, resolved.json, generation, source, tuple(map(printable, notes)), tuple(held))
