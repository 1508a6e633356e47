"""The published sizes: where they are, which revision, which dimensions."""

import difflib
from dataclasses import dataclass

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import UsageError


@dataclass(frozen=True)
class Size:
    """One published model.

    Attributes:
        repository: its id on the Hugging Face hub.
        revision: the commit that is downloaded.
        dims: its dimensions.
    """

    repository: str
    revision: str
    dims: ModelDimensions


def _size(
    repository: str, revision: str, n_vocab: int, n_state: int, n_head: int, n_layer: int,
    n_mels: int = 80, n_text_layer: int | None = None,
) -> Size:  # fmt: skip
    dims = ModelDimensions(
        n_mels=n_mels,
        n_audio_ctx=1500,
        n_audio_state=n_state,
        n_audio_head=n_head,
        n_audio_layer=n_layer,
        n_vocab=n_vocab,
        n_text_ctx=448,
        n_text_state=n_state,
        n_text_head=n_head,
        n_text_layer=n_text_layer or n_layer,
    )
    return Size(f"openai/whisper-{repository}", revision, dims)


# fmt: off
SIZES = {
    "tiny": _size("tiny", "169d4a4341b33bc18d8881c4b69c2e104e1cc0af", 51865, 384, 6, 4),
    "tiny.en": _size("tiny.en", "87c7102498dcde7456f24cfd30239ca606ed9063", 51864, 384, 6, 4),
    "base": _size("base", "e37978b90ca9030d5170a5c07aadb050351a65bb", 51865, 512, 8, 6),
    "base.en": _size("base.en", "911407f4214e0e1d82085af863093ec0b66f9cd6", 51864, 512, 8, 6),
    "small": _size("small", "973afd24965f72e36ca33b3055d56a652f456b4d", 51865, 768, 12, 12),
    "small.en": _size("small.en", "e8727524f962ee844a7319d92be39ac1bd25655a", 51864, 768, 12, 12),
    "medium": _size("medium", "abdf7c39ab9d0397620ccaea8974cc764cd0953e", 51865, 1024, 16, 24),
    "medium.en": _size("medium.en", "2e98eb6279edf5095af0c8dedb36bdec0acd172b", 51864, 1024, 16, 24),
    "large-v1": _size("large", "4ef9b41f0d4fe232daafdb5f76bb1dd8b23e01d7", 51865, 1280, 20, 32),
    "large-v2": _size("large-v2", "ae4642769ce2ad8fc292556ccea8e901f1530655", 51865, 1280, 20, 32),
    "large-v3": _size("large-v3", "06f233fe06e710322aca913c1bc4249a0d71fce1", 51866, 1280, 20, 32, 128),
    "large-v3-turbo": _size(
        "large-v3-turbo", "41f01f3fe87f28c78e2fbf8b568835947dd65ed9", 51866, 1280, 20, 32, 128, n_text_layer=4
    ),
}
# fmt: on
SIZES |= {"large": SIZES["large-v3"], "turbo": SIZES["large-v3-turbo"]}


def find_size(name: str) -> Size:
    """The size of this name.

    Raises:
        UsageError: there is none; the message names the nearest and lists those there are.
    """
    if name not in SIZES:
        nearest = difflib.get_close_matches(name[:40], SIZES, 1)
        meant = f"did you mean {nearest[0]}? Otherwise " if nearest else ""
        raise UsageError(
            f"there is no size {name!r}; {meant}choose one of {', '.join(SIZES)}, or give --checkpoint a path or "
            "hub id."
        )
    return SIZES[name]
