"""Which format a reference names: a file, a directory, or a hub id."""

import os
from pathlib import Path

from whisper2max.checkpoints import ctranslate2, hub, huggingface, openai
from whisper2max.checkpoints.checkpoint import Checkpoint
from whisper2max.checkpoints.sizes import SIZES
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
        f"{path} holds no model: expected {', '.join(huggingface.WEIGHT_FILES)} with config.json (Hugging "
        "Face), "
        "or model.bin (CTranslate2)."
    )
