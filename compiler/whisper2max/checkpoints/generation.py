"""generation.json: special ids, suppressed ids, alignment heads and mel settings, with their origin."""

from whisper2max.artifact.generation_schema import (
    FORMAT_VERSION,
    HOP_LENGTH,
    N_FFT,
    SAMPLE_RATE,
    SPECIAL_NAMES,
    chunk_seconds,
    mel_settings,
)
from whisper2max.checkpoints.files import short
from whisper2max.checkpoints.settings import Stated, check_identity
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import CheckpointError, TokenizerError
from whisper2max.runtime.tokens import SECONDS_PER_TIMESTAMP, Tokenizer

DERIVED = "derived from the tokenizer by openai-whisper's rule"
UNKNOWN = "unknown: the source does not say"
CORRECT = "Correct the file, or get it again from its source."
INITIAL_TIMESTAMP_INDEX = 50
"""Of the latest first timestamp, 1 s, where a checkpoint states none."""


def build_generation(
    tokenizer: Tokenizer,
    dims: ModelDimensions,
    tokenizer_origin: str,
    stated: Stated,
    notes: list[str],
) -> dict:
    """The content of generation.json.

    Args:
        tokenizer: the tokenizer of the checkpoint, already checked against its vocabulary.
        dims: the dimensions of the checkpoint.
        tokenizer_origin: where the tokenizer came from.
        stated: what the checkpoint says itself. What it leaves out is derived.
        notes: gets a sentence about everything that is stated and ignored.

    Raises:
        CheckpointError: a setting that is used is malformed, or nothing could ever be said.
        TokenizerError: the settings name other ids than the tokenizer does.
    """
    _check_against_tokenizer(stated, tokenizer)
    special = tokenizer.special
    suppressed = _ids(stated, "suppress_tokens", dims, notes)
    at_begin = _ids(stated, "begin_suppress_tokens", dims, notes)
    initial = _initial_timestamp(stated, notes)
    heads = _heads(stated, dims, notes)
    generation = {
        "format_version": FORMAT_VERSION,
        "special_tokens": {name: getattr(special, name) for name in SPECIAL_NAMES},
        "languages": dict(special.languages),
        "multilingual": special.multilingual,
        "suppress_tokens": tokenizer.default_suppress_tokens() if suppressed is None else suppressed,
        "begin_suppress_tokens": tokenizer.begin_suppress_tokens() if at_begin is None else at_begin,
        "alignment_heads": heads,
        "mel": mel_settings(dims),
        "origin": {
            "special_tokens": tokenizer_origin,
            "languages": tokenizer_origin,
            "multilingual": "the size of the vocabulary",
            "suppress_tokens": DERIVED if suppressed is None else stated.origins["suppress_tokens"],
            "begin_suppress_tokens": DERIVED if at_begin is None else stated.origins["begin_suppress_tokens"],
            "alignment_heads": UNKNOWN if heads is None else stated.origins["alignment_heads"],
            "mel": "the dimensions, and the constants that every Whisper shares",
        },
    }
    if initial is not None:
        generation["max_initial_timestamp"] = initial
        generation["origin"]["max_initial_timestamp"] = stated.origins["max_initial_timestamp_index"]
    _refuse_silence(generation, tokenizer)
    return generation


def check_mel_settings(settings: dict, name: str, dims: ModelDimensions, notes: list[str]) -> None:
    """Cross-check a preprocessor_config.json with the dimensions.

    Args:
        settings: its content.
        name: of the file.
        dims: the dimensions.
        notes: gets a sentence about what is stated and not taken over.

    Raises:
        CheckpointError: it has other mel channels than conv1 reads, or another kind of spectrogram.
    """
    channels = settings.get("feature_size")
    if channels is not None and channels != dims.n_mels:
        raise CheckpointError(
            f"encoder.conv1 has {dims.n_mels} mel channels, but {name} says {short(channels)}: it belongs to "
            "another model. Replace it by the one that was published with these weights."
        )
    expected = {"sampling_rate": SAMPLE_RATE, "n_fft": N_FFT, "hop_length": HOP_LENGTH}
    for key, value in expected.items():
        if settings.get(key, value) != value:
            raise CheckpointError(
                f"{name} says {key} is {short(settings[key])}; every Whisper uses {value}, and the log-mel here "
                "knows no other."
            )
    seconds = settings.get("chunk_length")
    if seconds not in (None, chunk_seconds(dims)):
        notes.append(
            f"{name} states windows of {short(seconds)} s; the encoder's {dims.n_audio_ctx} positions are "
            f"{chunk_seconds(dims):g} s, which is taken"
        )
    if settings.get("dither") not in (None, 0):
        notes.append(f"{name} states a dither of {short(settings['dither'])}, and none is added")


def configure_transformers(module, generation: dict, padding: tuple[int, ...]) -> None:
    """Give a transformers module the ids and lists of generation.json, so that its `generate` uses them.

    Args:
        module: a WhisperForConditionalGeneration.
        generation: the content of generation.json.
        padding: ids that no token has, which are never sampled.
    """
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
        "suppress_tokens": sorted({*generation["suppress_tokens"], *padding}),
        "begin_suppress_tokens": generation["begin_suppress_tokens"],
        "no_timestamps_token_id": special["no_timestamps"],
        "prev_sot_token_id": special["sot_prev"],
        "is_multilingual": generation["multilingual"],
        "return_timestamps": False,
        "max_initial_timestamp_index": INITIAL_TIMESTAMP_INDEX,
    }
    if "max_initial_timestamp" in generation:
        settings["max_initial_timestamp_index"] = round(generation["max_initial_timestamp"] / SECONDS_PER_TIMESTAMP)
    if generation["multilingual"]:
        settings["lang_to_id"] = {f"<|{code}|>": token for code, token in generation["languages"].items()}
        settings["task_to_id"] = {"transcribe": special["transcribe"], "translate": special["translate"]}
    if generation["alignment_heads"] is not None:
        settings["alignment_heads"] = generation["alignment_heads"]
    module.generation_config = GenerationConfig(**settings)
    for name, token in ids.items():
        setattr(module.config, name, token)


def _check_against_tokenizer(stated: Stated, tokenizer: Tokenizer) -> None:
    differing = check_identity(stated, tokenizer)
    if differing:
        origin = stated.origins.get("lang_to_id") or stated.origins["no_timestamps_token_id"]
        first = list(differing.items())[:5]
        told = "; ".join(f"{short(text)} is {ours}, {origin} says {short(theirs)}" for text, (theirs, ours) in first)
        raise TokenizerError(
            f"the tokenizer belongs to another model: in it {told}. "
            "Pass the tokenizer.json that belongs to these weights with --tokenizer."
        )


def _ids(stated: Stated, key: str, dims: ModelDimensions, notes: list[str]) -> list[int] | None:
    ids = stated.settings.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        raise CheckpointError(
            f"{stated.origins[key]}: {key} must be a list of token ids from 0 to {dims.n_vocab - 1}, but is "
            f"{short(ids)}. {CORRECT}"
        )
    beyond = sorted({token for token in ids if token >= dims.n_vocab})
    if beyond:
        notes.append(
            f"{stated.origins[key]}: {key} holds {short(beyond)}, beyond the vocabulary of {dims.n_vocab}; ignored"
        )
    return list(dict.fromkeys(token for token in ids if token < dims.n_vocab))


def _initial_timestamp(stated: Stated, notes: list[str]) -> float | None:
    """Seconds of the latest first timestamp, or None for openai-whisper's."""
    index = stated.settings.get("max_initial_timestamp_index")
    if index is None:
        return None
    origin = stated.origins["max_initial_timestamp_index"]
    if type(index) is not int or not 0 <= index <= 1500:
        raise CheckpointError(
            f"{origin}: max_initial_timestamp_index must be from 0 to 1500, but is {short(index)}. {CORRECT}"
        )
    if index == 0:
        notes.append(f"{origin} states a max_initial_timestamp_index of 0, for which the usual 50 is taken")
        return None
    return None if index == INITIAL_TIMESTAMP_INDEX else round(index * SECONDS_PER_TIMESTAMP, 2)


def _heads(stated: Stated, dims: ModelDimensions, notes: list[str]) -> list[list[int]] | None:
    """Pairs of layer and head; nothing decodes by them, so that others are left out and not refused."""
    heads = stated.settings.get("alignment_heads")
    if heads is None:
        return None
    limits = (dims.n_text_layer, dims.n_text_head)
    pairs = isinstance(heads, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in heads)
    if not pairs or not all(
        type(each) is int and 0 <= each < limit for pair in heads for each, limit in zip(pair, limits, strict=True)
    ):
        notes.append(
            f"{stated.origins['alignment_heads']}: alignment_heads are not pairs of a layer below {limits[0]} and a "
            f"head below {limits[1]}; they are left out, and no transcript needs them"
        )
        return None
    return [list(pair) for pair in dict.fromkeys(map(tuple, heads))]


def _refuse_silence(generation: dict, tokenizer: Tokenizer) -> None:
    """Refuse suppressed ids that leave nothing to say, or no timestamp to begin with."""
    suppressed = {*generation["suppress_tokens"], *tokenizer.padding}
    seconds = generation.get("max_initial_timestamp", INITIAL_TIMESTAMP_INDEX * SECONDS_PER_TIMESTAMP)
    initial = tokenizer.special.timestamps[: round(seconds / SECONDS_PER_TIMESTAMP) + 1]
    at_begin = suppressed.union(generation["begin_suppress_tokens"])
    speechless = all(token in suppressed for token in range(tokenizer.n_vocab) if tokenizer.is_text(token))
    if speechless or all(token in at_begin for token in initial):
        held = "all text" if speechless else "every timestamp that a transcript may begin with"
        raise CheckpointError(
            f"{generation['origin']['suppress_tokens']}: suppress_tokens and begin_suppress_tokens hold {held}, so "
            "nothing could ever be said. Correct the lists, or remove them, and openai-whisper's are taken."
        )
