"""Which checkpoint to convert, as one value: a published size, random weights, a path or hub id, or a live module."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.module import from_module
from whisper2max.checkpoints.opening import open_checkpoint, open_size
from whisper2max.checkpoints.random_init import random_checkpoint
from whisper2max.core.errors import UsageError

Say = Callable[[str], None]


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint that is chosen and not opened yet.

    Attributes:
        name: what its artifact is called by default, such as "base".
        record: the arguments of `choose_source` that find it again, for the manifest; None for a path, which may lead
            elsewhere tomorrow, and for a live module.
        open: opens the checkpoint; takes a tokenizer as for `open_checkpoint`, or None, and a function that is called
            with lines of text about the way taken.
    """

    name: str
    record: dict[str, str | int] | None
    open: Callable[[str | Path | None, Say], Checkpoint]


def choose_source(
    *,
    size: str | None = None,
    checkpoint: str | Path | None = None,
    module: torch.nn.Module | None = None,
    random_init: int | None = None,
) -> CheckpointSource:
    """The source that the arguments of `convert` name.

    Raises:
        UsageError: not exactly one of size, checkpoint and module is given, or a seed without a size.
    """
    if sum(given is not None for given in (size, checkpoint, module)) != 1:
        raise UsageError("give exactly one of --size and --checkpoint (or, from Python, module=)")
    if random_init is not None and size is None:
        raise UsageError("--random-init SEED needs --size, which gives the dimensions")
    if random_init is not None:
        return _random(size, random_init)
    if size is not None:
        return CheckpointSource(size, {"size": size}, lambda tokenizer, say: open_size(size, tokenizer, say))
    if checkpoint is not None:
        name = Path(checkpoint).name.removesuffix(".pt") or Path(checkpoint).resolve().name
        # not Path.exists, which raises for names that no file can have: opening says what is wrong with them
        record = None if os.path.exists(checkpoint) else {"checkpoint": str(checkpoint)}
        return CheckpointSource(name, record, lambda tokenizer, say: open_checkpoint(checkpoint, tokenizer))
    return CheckpointSource("module", None, lambda tokenizer, say: from_module(module, tokenizer))


def recorded_source(source: dict) -> CheckpointSource:
    """The source that the "source" of a manifest records under "request".

    Raises:
        UsageError: it records none, because the checkpoint has no lasting name.
    """
    if not source.get("request"):
        raise UsageError(
            f"the artifact came from {source['name']} ({source['format']}), which cannot be found by name: "
            "give --checkpoint with the file or directory it was converted from"
        )
    return choose_source(**source["request"])


def _random(size: str, seed: int) -> CheckpointSource:
    def open_random(tokenizer: str | Path | None, say: Say) -> Checkpoint:
        say(f"random weights of seed {seed} at the dimensions of {size}")
        return random_checkpoint(size, seed, tokenizer)

    return CheckpointSource(f"{size}-random", {"size": size, "random_init": seed}, open_random)
