"""The fields of generation.json, and the check of a file that comes from outside."""

from collections.abc import Callable
from typing import Any

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError

FORMAT_VERSION = 1
SAMPLE_RATE, N_FFT, HOP_LENGTH = 16000, 400, 160
SPECIAL_NAMES = tuple(
    "eot sot sot_prev sot_lm translate transcribe no_speech no_timestamps timestamp_begin".split()
)
OPTIONAL = ("max_initial_timestamp",)
"""Fields that are there only where the checkpoint states something else than openai-whisper does."""

_WINDOW_SECONDS = 30.0


def chunk_seconds(dims: ModelDimensions) -> int | float:
    """Length of one window: 30 for 1500 encoder positions."""
    seconds = dims.n_frames * HOP_LENGTH / SAMPLE_RATE
    return int(seconds) if seconds.is_integer() else seconds


def mel_settings(dims: ModelDimensions) -> dict[str, int | float]:
    """The content of `mel`."""
    return {
        "n_mels": dims.n_mels,
        "sample_rate": SAMPLE_RATE,
        "n_fft": N_FFT,
        "hop_length": HOP_LENGTH,
        "chunk_seconds": chunk_seconds(dims),
    }


def check_generation(generation: dict[str, Any], dims: ModelDimensions) -> None:
    """Raise an ArtifactError that lists every field that is missing, unknown, of another type or out of range.

    Args:
        generation: a JSON object, of any content.
        dims: the dimensions of the model; no id is beyond its vocabulary.
    """

    def is_id(value: object) -> bool:
        return type(value) is int and 0 <= value < dims.n_vocab

    def is_ids(value: object) -> bool:
        return isinstance(value, list) and len(value) <= dims.n_vocab and all(map(is_id, value))

    def is_special(value: object) -> bool:
        return isinstance(value, dict) and value.keys() == set(SPECIAL_NAMES) and all(map(is_id, value.values()))

    def is_languages(value: object) -> bool:
        return isinstance(value, dict) and len(value) > 0 and all(map(is_id, value.values()))

    def is_heads(value: object) -> bool:
        return value is None or (
            isinstance(value, list)
            and len(value) <= dims.n_text_layer * dims.n_text_head
            and all(
                isinstance(pair, list)
                and len(pair) == 2
                and all(type(each) is int for each in pair)
                and 0 <= pair[0] < dims.n_text_layer
                and 0 <= pair[1] < dims.n_text_head
                for pair in value
            )
        )

    fields = generation.keys() - {"format_version", "origin"}

    def is_origin(value: object) -> bool:
        return (
            isinstance(value, dict) and value.keys() == fields and all(isinstance(each, str) for each in value.values())
        )

    expected: dict[str, tuple[Callable[[object], bool], str]] = {
        "format_version": (lambda value: type(value) is int and value == FORMAT_VERSION, str(FORMAT_VERSION)),
        "special_tokens": (is_special, f"token ids below {dims.n_vocab} for {', '.join(SPECIAL_NAMES)}"),
        "languages": (is_languages, f"token ids below {dims.n_vocab} by language code"),
        "multilingual": (lambda value: isinstance(value, bool), "true or false"),
        "suppress_tokens": (is_ids, f"a list of token ids below {dims.n_vocab}"),
        "begin_suppress_tokens": (is_ids, f"a list of token ids below {dims.n_vocab}"),
        "max_initial_timestamp": (is_initial_timestamp, f"seconds up to {_WINDOW_SECONDS:g}, or null"),
        "alignment_heads": (
            is_heads,
            f"pairs of a layer below {dims.n_text_layer} and a head below {dims.n_text_head}, or null",
        ),
        "mel": (lambda value: value == mel_settings(dims), f"{mel_settings(dims)}, which the dimensions give"),
        "origin": (is_origin, "a text for each other field but format_version"),
    }
    missing = [name for name in expected if name not in generation and name not in OPTIONAL]
    unknown = sorted(generation.keys() - expected.keys())[:5]
    faults = [f"{', '.join(missing)} is not there"] if missing else []
    faults += [f"{', '.join(name[:40] for name in unknown)} is not known"] if unknown else []
    faults += [
        f"{name} must be {what}"
        for name, (fits, what) in expected.items()
        if name in generation and not fits(generation[name])
    ]
    if faults:
        raise ArtifactError(
            f"generation.json is damaged or of another version: {'; '.join(faults)}. Convert the checkpoint again."
        )


def is_initial_timestamp(value: object) -> bool:
    """Whether a value can be `max_initial_timestamp`: seconds above 0, or None for no limit."""
    return value is None or (type(value) in (int, float) and 0 < value <= _WINDOW_SECONDS)


def check_against_tokenizer(generation: dict[str, Any], special) -> None:
    """Raise ArtifactError where a checked generation.json and the tokenizer beside it number tokens differently.

    Args:
        generation: what `check_generation` accepted.
        special: the `SpecialTokens` of the tokenizer.
    """
    stated = {**generation["special_tokens"], **{f"<|{code}|>": id for code, id in generation["languages"].items()}}
    ours = {name: getattr(special, name) for name in SPECIAL_NAMES}
    ours |= {f"<|{code}|>": token for code, token in special.languages.items()}
    differing = sorted(name for name in stated.keys() | ours.keys() if stated.get(name) != ours.get(name))
    if differing or generation["multilingual"] != special.multilingual:
        what = ", ".join(name[:40] for name in differing[:5]) or "multilingual"
        raise ArtifactError(
            f"generation.json and tokenizer.json differ about {what}: they are of different models. Convert the "
            "checkpoint again."
        )
