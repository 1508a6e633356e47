"""What every source format is turned into."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisper2max.dims import ModelDimensions

if TYPE_CHECKING:
    import torch


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
    """

    module: "torch.nn.Module"
    dims: ModelDimensions
    tokenizer_json: bytes
    generation: dict
    source: dict
