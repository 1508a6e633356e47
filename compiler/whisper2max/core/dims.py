"""The ten integers that configure a Whisper model, under openai-whisper's names."""

from dataclasses import asdict, dataclass, fields

from whisper2max.core.errors import CheckpointError

# Several times what the largest Whisper has, and little enough that nothing made of them overflows.
MOST = {
    "n_mels": 1024,
    "n_audio_ctx": 1 << 16,
    "n_audio_state": 1 << 14,
    "n_audio_head": 1 << 10,
    "n_audio_layer": 1 << 10,
    "n_vocab": 1 << 20,
    "n_text_ctx": 1 << 16,
    "n_text_state": 1 << 14,
    "n_text_head": 1 << 10,
    "n_text_layer": 1 << 10,
}


@dataclass(frozen=True)
class ModelDimensions:
    """Sizes of one Whisper model, as read from its checkpoint (openai-whisper's ModelDimensions).

    Attributes:
        n_mels: mel channels of the input, 80 or 128.
        n_audio_ctx: encoder positions; the input has twice as many mel frames.
        n_audio_state: encoder width.
        n_audio_head: encoder attention heads.
        n_audio_layer: encoder blocks.
        n_vocab: rows of the token embedding, timestamps included.
        n_text_ctx: decoder positions.
        n_text_state: decoder width, equal to the encoder's.
        n_text_head: decoder attention heads.
        n_text_layer: decoder blocks.
    """

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise CheckpointError(
                    f"{field.name} is {value!r:.40}; every Whisper dimension is a positive integer. "
                    "The configuration of the checkpoint is damaged or of another model."
                )
            if value > MOST[field.name]:
                raise CheckpointError(
                    f"{field.name} is above {MOST[field.name]}, which no Whisper comes near. "
                    "The configuration of the checkpoint is damaged or of another model."
                )
        for side in ("audio", "text"):
            state, head = getattr(self, f"n_{side}_state"), getattr(self, f"n_{side}_head")
            if state % head:
                raise CheckpointError(
                    f"n_{side}_state {state} is not a multiple of n_{side}_head {head}; "
                    "the heads of an attention share its width equally."
                )
        if self.n_audio_state != self.n_text_state:
            raise CheckpointError(
                f"n_audio_state {self.n_audio_state} differs from n_text_state {self.n_text_state}; "
                "Whisper's cross-attention reads encoder states of the decoder's width."
            )

    @property
    def n_frames(self) -> int:
        """Mel frames of one window: 3000 for 30 s at a hop of 10 ms."""
        return 2 * self.n_audio_ctx

    def to_dict(self) -> dict[str, int]:
        """The ten integers by name, in the order of the fields."""
        return asdict(self)
