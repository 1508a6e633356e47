"""Read the settings of decoding that a checkpoint's configurations state, and note those that are not taken over."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from whisper2max.checkpoints.files import short
from whisper2max.core.errors import CheckpointError
from whisper2max.runtime.languages import OTHER_CODES
from whisper2max.runtime.tokens import Tokenizer

TAKEN_OVER = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "max_initial_timestamp_index",
    "alignment_heads",
    "no_timestamps_token_id",
    "lang_to_id",
)
# What WhisperConfig writes into every config.json, whatever the model.
CLASS_DEFAULTS = {"begin_suppress_tokens": [220, 50256]}
# Settings that change what transformers generates, with the values that change nothing here.
OTHERS = {
    "language": (None,),
    "task": (None, "transcribe"),
    "temperature": (None, 0, 1),
    "do_sample": (None, False),
    "num_beams": (None, 1),
    "length_penalty": (None, 1),
    "repetition_penalty": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "sequence_bias": (None,),
    "no_speech_threshold": (None, 0.6),
    "logprob_threshold": (None, -1.0),
    "compression_ratio_threshold": (None,),
    "condition_on_prev_tokens": (None, True),
    "prompt_condition_type": (None, "first-segment"),
    "max_new_tokens": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None,),
}


class Stated(NamedTuple):
    """The settings of a checkpoint, under the names of transformers' generation_config.json.

    Attributes:
        settings: the value of each key of `TAKEN_OVER` that a file states; null ones are left out.
        origins: the file that each was read from.
    """

    settings: dict[str, Any]
    origins: dict[str, str]


def read_stated(files: Sequence[tuple[str, dict]], tokenizer: Tokenizer, notes: list[str]) -> Stated:
    """Read the configurations; where two state the same setting, the first is used.

    Args:
        files: name and content of each, the one that goes first first.
        tokenizer: of the checkpoint, to say what ids mean.
        notes: gets a sentence about everything that is not taken over.
    """
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, content in files:
        for key in TAKEN_OVER:
            value = content.get(key)
            if value is None or (name == "config.json" and CLASS_DEFAULTS.get(key) == value):
                continue
            if key not in settings:
                settings[key], origins[key] = value, name
            elif value != settings[key]:
                notes.append(f"{name} states another {key} than {origins[key]}, which goes first")
    # as in transformers, a generation_config.json replaces what config.json says about generation
    for name, content in files[:1]:
        notes += _not_taken_over(name, content, tokenizer)
    return Stated(settings, origins)


def _not_taken_over(name: str, content: dict, tokenizer: Tokenizer) -> list[str]:
    special = tokenizer.special
    notes = []
    forced = content.get("forced_decoder_ids")
    if forced is not None:
        notes += _forced(name, forced, tokenizer)
    others = [f"{key} {short(content[key])}" for key, neutral in OTHERS.items() if content.get(key) not in neutral]
    if others:
        notes.append(
            f"{name} states {', '.join(others)}, which is not taken over: decoding is greedy, and language, task and "
            "thresholds are options of each transcription"
        )
    ids = {"decoder_start_token_id": special.sot, "eos_token_id": special.eot, "prev_sot_token_id": special.sot_prev}
    for key, ours in ids.items():
        if content.get(key) not in (None, ours, [ours]):
            notes.append(f"{name} states {key} {short(content[key])}, the tokenizer {ours}, which is used")
    if content.get("lang_ids") not in (None, sorted(special.languages.values())):
        notes.append(f"{name} states other lang_ids than the tokenizer, whose languages are used")
    if content.get("is_multilingual") not in (None, special.multilingual):
        kind = "multilingual" if special.multilingual else "English-only"
        notes.append(f"{name} states is_multilingual {short(content['is_multilingual'])}, the vocabulary is {kind}")
    return notes


def _forced(name: str, forced: object, tokenizer: Tokenizer) -> list[str]:
    """Notes about the tokens that old configurations force after the start: a language, a task, no timestamps."""
    special = tokenizer.special
    pairs = forced if isinstance(forced, list) else [forced]
    ids = [pair[1] if isinstance(pair, list) and len(pair) == 2 else pair for pair in pairs]
    told = {token: f"the language {code}" for code, token in special.languages.items()}
    told |= {special.translate: "the task translate", special.no_timestamps: "no timestamps"}
    usual = (None, special.transcribe)
    said = [told[token] if isinstance(token, int) and token in told else short(token) for token in ids]
    said = [what for what, token in zip(said, ids, strict=True) if token not in usual]
    if not said:
        return []
    return [
        f"{name} forces {', '.join(said[:4])} (forced_decoder_ids), which is not taken over: these are options of each "
        "transcription"
    ]


def check_identity(stated: Stated, tokenizer: Tokenizer) -> dict[str, tuple[int, int | None]]:
    """Ids that the settings name otherwise than the tokenizer: by text, the id stated and the tokenizer's.

    Raises:
        CheckpointError: they are not ids.
    """
    found = {}
    settings = stated.settings
    languages = settings.get("lang_to_id", {})
    if not isinstance(languages, dict) or not all(type(token) is int for token in languages.values()):
        raise CheckpointError(
            f"{stated.origins['lang_to_id']}: lang_to_id must give each language a token id, but is "
            f"{short(languages)}. Get the file again from its source."
        )
    for text, token in languages.items():
        code = text.strip("<|>")
        found[text] = (token, tokenizer.special.languages.get(OTHER_CODES.get(code, code)))
    if "no_timestamps_token_id" in settings:
        found["<|notimestamps|>"] = (settings["no_timestamps_token_id"], tokenizer.special.no_timestamps)
    return {text: (theirs, ours) for text, (theirs, ours) in found.items() if theirs != ours}
