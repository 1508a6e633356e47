"""The common form that every source format is read into."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisper2max.core.dims import ModelDimensions

if TYPE_CHECKING:
    import torch

    from whisper2max.core.held import HeldFile


@dataclass(frozen=True)
class Checkpoint:
    """A PyTorch Whisper with all that is needed to run it.

    Attributes:
        module: in eval mode, float32, on the CPU. transformers' WhisperForConditionalGeneration, or
            openai-whisper's Whisper where a live one was given.
        dims: its dimensions.
        tokenizer_json: the bytes of a tokenizer.json whose tokens make up the vocabulary.
        generation: the content of generation.json; `origin` says where each field came from.
        source: where the weights came from: "format" (openai, huggingface, ctranslate2, module or
            random), "name", "revision" (a commit or None), "sha256" (of the weight file, of the
            listing of its shards' hashes, or None) and "stored_dtype".
        notes: sentences to tell the user: what was read otherwise than it is written, and what the checkpoint states
            and is not taken over.
        held: the files of the weights, which the module's tensors may lie in.
    """

    module: "torch.nn.Module"
    dims: ModelDimensions
    tokenizer_json: bytes
    generation: dict
    source: dict
    notes: tuple[str, ...] = ()
    held: "tuple[HeldFile, ...]" = ()

    def require_unchanged(self) -> None:
        """Check that no file of the weights was changed while they were used; to be called afterwards.

        Raises:
            CheckpointError: the sha256 of a file is no longer the one in `source`.
        """
        for file in self.held:
            file.require_unchanged()
