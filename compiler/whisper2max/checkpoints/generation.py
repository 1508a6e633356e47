"""generation.json: special ids, suppressed ids, alignment heads and mel settings, with their origin."""

from whisper2max.dims import ModelDimensions
from whisper2max.errors import CheckpointError, TokenizerError
from whisper2max.runtime.languages import OTHER_CODES
from whisper2max.runtime.tokens import Tokenizer

FORMAT_VERSION = 1
SAMPLE_RATE, N_FFT, HOP_LENGTH = 16000, 400, 160
SPECIAL_NAMES = tuple(
    "eot sot sot_prev sot_lm translate transcribe no_speech no_timestamps timestamp_begin".split()
)
DERIVED = "derived from the tokenizer by openai-whisper's rule"
UNKNOWN = "unknown: the source does not say"


def build_generation(
    tokenizer: Tokenizer,
    dims: ModelDimensions,
    *,
    tokenizer_origin: str,
    settings: dict | None = None,
    settings_origin: str = "",
) -> dict:
    """The content of generation.json.

    Args:
        tokenizer: the tokenizer of the checkpoint, already checked against its vocabulary.
        dims: the dimensions of the checkpoint.
        tokenizer_origin: where the tokenizer came from.
        settings: what the checkpoint says itself, under the names of transformers'
            generation_config.json: suppress_tokens, begin_suppress_tokens, alignment_heads,
            no_timestamps_token_id, lang_to_id. What is absent or null is derived.
        settings_origin: the name of the file that the settings were read from.

    Raises:
        CheckpointError: a setting is malformed or out of range.
        TokenizerError: the settings name other ids than the tokenizer does.
    """
    settings = settings or {}
    _check_against_tokenizer(settings, settings_origin, tokenizer)
    special = tokenizer.special
    suppressed = _ids(settings, "suppress_tokens", settings_origin, dims)
    at_begin = _ids(settings, "begin_suppress_tokens", settings_origin, dims)
    heads = _heads(settings, settings_origin, dims)
    return {
        "format_version": FORMAT_VERSION,
        "special_tokens": {name: getattr(special, name) for name in SPECIAL_NAMES},
        "languages": dict(special.languages),
        "multilingual": special.multilingual,
        "suppress_tokens": tokenizer.default_suppress_tokens() if suppressed is None else suppressed,
        "begin_suppress_tokens": tokenizer.begin_suppress_tokens() if at_begin is None else at_begin,
        "alignment_heads": heads,
        "mel": {
            "n_mels": dims.n_mels,
            "sample_rate": SAMPLE_RATE,
            "n_fft": N_FFT,
            "hop_length": HOP_LENGTH,
            "chunk_seconds": chunk_seconds(dims),
        },
        "origin": {
            "special_tokens": tokenizer_origin,
            "languages": tokenizer_origin,
            "multilingual": "the size of the vocabulary",
            "suppress_tokens": DERIVED if suppressed is None else settings_origin,
            "begin_suppress_tokens": DERIVED if at_begin is None else settings_origin,
            "alignment_heads": UNKNOWN if heads is None else settings_origin,
            "mel": "the dimensions, and the constants that every Whisper shares",
        },
    }


def chunk_seconds(dims: ModelDimensions) -> int | float:
    """Length of one window: 30 for 1500 encoder positions."""
    seconds = dims.n_frames * HOP_LENGTH / SAMPLE_RATE
    return int(seconds) if seconds.is_integer() else seconds


def check_mel_settings(settings: dict, name: str, dims: ModelDimensions) -> None:
    """Cross-check a preprocessor_config.json with the dimensions.

    Raises:
        CheckpointError: it has other mel channels than conv1 reads, or another kind of spectrogram.
    """
    channels = settings.get("feature_size")
    if channels is not None and channels != dims.n_mels:
        raise CheckpointError(
            f"encoder.conv1 has {dims.n_mels} mel channels, but {name} says {channels}: it belongs to "
            "another model. Replace it by the one that was published with these weights."
        )
    expected = {"sampling_rate": SAMPLE_RATE, "n_fft": N_FFT, "hop_length": HOP_LENGTH}
    for key, value in expected.items():
        if settings.get(key, value) != value:
            raise CheckpointError(
                f"{name} says {key} is {settings[key]}; every Whisper uses {value}, and the log-mel here "
                "knows no other."
            )


def configure_transformers(module, generation: dict) -> None:
    """Give a transformers module the ids and lists of generation.json, so that its `generate` uses them."""
    from transformers import GenerationConfig

    special = generation["special_tokens"]
    ids = {
        "decoder_start_token_id": special["sot"],
        "eos_token_id": special["eot"],
        "pad_token_id": special["eot"],
        "bos_token_id": special["eot"],
    }
    settings = {
        **ids,
        "max_length": module.config.max_target_positions,
        "suppress_tokens": generation["suppress_tokens"],
        "begin_suppress_tokens": generation["begin_suppress_tokens"],
        "no_timestamps_token_id": special["no_timestamps"],
        "prev_sot_token_id": special["sot_prev"],
        "is_multilingual": generation["multilingual"],
        "return_timestamps": False,
        "max_initial_timestamp_index": 50,
    }
    if generation["multilingual"]:
        settings["lang_to_id"] = {f"<|{code}|>": token for code, token in generation["languages"].items()}
        settings["task_to_id"] = {"transcribe": special["transcribe"], "translate": special["translate"]}
    if generation["alignment_heads"] is not None:
        settings["alignment_heads"] = generation["alignment_heads"]
    module.generation_config = GenerationConfig(**settings)
    for name, token in ids.items():
        setattr(module.config, name, token)


def _check_against_tokenizer(settings: dict, origin: str, tokenizer: Tokenizer) -> None:
    stated = {}
    if isinstance(settings.get("no_timestamps_token_id"), int):
        stated["<|notimestamps|>"] = (settings["no_timestamps_token_id"], tokenizer.special.no_timestamps)
    languages = settings.get("lang_to_id")
    for text, token in languages.items() if isinstance(languages, dict) else ():
        code = text.strip("<|>")
        stated[text] = (token, tokenizer.special.languages.get(OTHER_CODES.get(code, code)))
    differing = [
        f"{text} is {ours}, {origin} says {theirs}"
        for text, (theirs, ours) in stated.items()
        if theirs != ours
    ]
    if differing:
        raise TokenizerError(
            f"the tokenizer belongs to another model: in it {'; '.join(differing[:5])}. "
            "Pass the tokenizer.json that belongs to these weights with --tokenizer."
        )


def _ids(settings: dict, key: str, origin: str, dims: ModelDimensions) -> list[int] | None:
    ids = settings.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(
        type(token) is int and 0 <= token < dims.n_vocab for token in ids
    ):
        raise CheckpointError(
            f"{origin}: {key} must be a list of token ids from 0 to {dims.n_vocab - 1}, but is {_short(ids)}."
        )
    return ids


def _heads(settings: dict, origin: str, dims: ModelDimensions) -> list[list[int]] | None:
    heads = settings.get("alignment_heads")
    if heads is None:
        return None
    limits = (dims.n_text_layer, dims.n_text_head)
    try:
        pairs = [(layer, head) for layer, head in heads if type(layer) is type(head) is int]
        inside = len(pairs) == len(heads) and all(
            0 <= layer < limits[0] and 0 <= head < limits[1] for layer, head in pairs
        )
    except (TypeError, ValueError):
        inside = False
    if not inside:
        raise CheckpointError(
            f"{origin}: alignment_heads must be pairs of a layer below {limits[0]} and a head below "
            f"{limits[1]}, "
            f"but is {_short(heads)}."
        )
    return [list(pair) for pair in heads]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 100 else text[:100] + "..."
