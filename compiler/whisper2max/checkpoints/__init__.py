"""Checkpoints: one file per source format, all giving a module, a tokenizer and generation settings.

    checkpoint = open_checkpoint("whisper-small-fr/")     # file, directory or hub id
    checkpoint = open_size("base", say=print)
    checkpoint = from_module(model)
    checkpoint = random_checkpoint("large-v3", seed=0)
    source = choose_source(size="base")                   # any of the four, not opened yet

To add a format, write a file with `matches(path)` and `open_path(path, tokenizer)` and name it in
`opening.FORMATS`. `open_path` reads dimensions and tensors, and leaves the rest to `complete` and `assemble`, which it
gives a function that spells canonical names as the format does; openai.py is the shortest example.

Importing this package imports neither torch nor transformers: each name is fetched on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisper2max.checkpoints.checkpoint import Checkpoint
    from whisper2max.checkpoints.module import from_module
    from whisper2max.checkpoints.opening import open_checkpoint, open_size
    from whisper2max.checkpoints.random_init import random_checkpoint
    from whisper2max.checkpoints.sizes import SIZES
    from whisper2max.checkpoints.source import CheckpointSource, choose_source, recorded_source

__all__ = [
    "SIZES",
    "Checkpoint",
    "CheckpointSource",
    "choose_source",
    "from_module",
    "open_checkpoint",
    "open_size",
    "random_checkpoint",
    "recorded_source",
]

_HOMES = {
    "SIZES": "sizes",
    "Checkpoint": "checkpoint",
    "CheckpointSource": "source",
    "choose_source": "source",
    "from_module": "module",
    "open_checkpoint": "opening",
    "open_size": "opening",
    "random_checkpoint": "random_init",
    "recorded_source": "source",
}


def __getattr__(name: str):
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
