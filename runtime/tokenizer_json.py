"""tokenizer.json, the format of the `tokenizers` library: what Whisper uses of it, checked before the library reads it.

Every Whisper tokenizer is GPT-2's byte-level BPE. Other components of the library (normalizers, regular expressions of
the file's own) would make other tokens, or take forever to make them, so a file that asks for one is refused, and the
library is given the components that this module names.
"""

import json
from collections.abc import Collection
from itertools import repeat
from typing import NamedTuple

from whisper2max.core.errors import TokenizerError
from whisper2max.core.strict_json import parse

REMEDY = "Pass the tokenizer.json that belongs to these weights with --tokenizer."

_KIND = "is not a byte-level BPE tokenizer.json, as every Whisper has"
_MOST_ID = 1 << 31
_FLAGS = {"single_word", "lstrip", "rstrip", "normalized", "special"}


class AddedToken(NamedTuple):
    """A token that the library finds in a text before it splits the text."""

    id: int
    content: str
    special: bool


class TokenizerJson(NamedTuple):
    """The parts of a tokenizer.json that mean something to Whisper."""

    document: dict
    vocab: dict[str, int]
    added: list[AddedToken]


def read_tokenizer_json(content: str | bytes, where: str = "tokenizer.json") -> TokenizerJson:
    """The checked content of a tokenizer.json.

    Raises:
        TokenizerError: it is none, or asks for components that no Whisper tokenizer has.
    """
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    document = parse(raw, where, TokenizerError, REMEDY)
    model, added = document.get("model"), document.get("added_tokens")
    if not isinstance(model, dict) or not isinstance(added, list):
        raise TokenizerError(f"{where} {_KIND}: it lacks model or added_tokens. {REMEDY}")
    vocab, merges = model.get("vocab"), model.get("merges")
    faults = []
    if model.get("type", "BPE") != "BPE" or not isinstance(vocab, dict) or not all(map(_is_id, vocab.values())):
        faults.append("model is not a BPE whose vocab gives each text an id")
    if not isinstance(merges, list) or not _are_merges(merges):
        faults.append("merges are not pairs of tokens")
    if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        faults.append("model has a dropout, a prefix or a suffix")
    if not all(map(_is_added, added)):
        faults.append("added_tokens are not ids with their content")
    if document.get("normalizer") is not None:
        faults.append("it has a normalizer")
    if not _is_byte_level(document.get("pre_tokenizer"), "pretokenizers"):
        faults.append("its pre_tokenizer is not ByteLevel alone")
    if not _is_byte_level(document.get("decoder"), "decoders"):
        faults.append("its decoder is not ByteLevel alone")
    if faults:
        raise TokenizerError(f"{where} {_KIND}: {'; '.join(faults)}. {REMEDY}")
    tokens = [AddedToken(token["id"], token["content"], token.get("special", False)) for token in added]
    return TokenizerJson(document, vocab, tokens)


def for_the_library(read: TokenizerJson, text_ids: Collection[int], unlisted: dict[int, str]) -> str:
    """What the library is given: the file's tokens and merges under the components that every Whisper has.

    Args:
        read: the checked file.
        text_ids: added tokens that are found in a text as the file says; all others are special, which leaves them
            plain text where a text spells them out.
        unlisted: texts of ids that the file does not list; the library numbers added tokens without gaps.
    """
    model, pre_tokenizer = read.document["model"], read.document["pre_tokenizer"]
    prefixed = any(each.get("add_prefix_space", True) for each in pre_tokenizer.get("pretokenizers", [pre_tokenizer]))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        flags | token | {"special": token["id"] not in text_ids or token.get("special", False)}
        for token in read.document["added_tokens"]
    ]
    added += [flags | {"id": token, "content": text, "special": True} for token, text in unlisted.items()]
    added.sort(key=lambda token: token["id"])
    return json.dumps(byte_level_bpe(read.vocab, model["merges"], added, prefixed))


def byte_level_bpe(vocab: dict[str, int], merges: list, added: list[dict], add_prefix_space: bool = False) -> dict:
    """The document of a tokenizer that splits text as GPT-2's does.

    Args:
        vocab: id by token, spelled in bytes.
        merges: the parts that are joined, the most frequent first.
        added: entries of `added_tokens`.
        add_prefix_space: whether a space is put before text that has none.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "add_prefix_space": add_prefix_space},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST_ID


def _are_merges(merges: list) -> bool:
    if set(map(type, merges)) <= {str}:  # most files have 50,000 of these, and every load reads them
        return set(map(str.count, merges, repeat(" "))) <= {1}
    return all(map(_is_merge, merges))


def _is_merge(value: object) -> bool:
    if isinstance(value, list):
        return len(value) == 2 and all(isinstance(part, str) for part in value)
    return isinstance(value, str) and value.count(" ") == 1


def _is_added(value: object) -> bool:
    if not isinstance(value, dict) or not _is_id(value.get("id")) or not isinstance(value.get("content"), str):
        return False
    flags = value.keys() - {"id", "content"}
    return bool(value["content"]) and flags <= _FLAGS and all(isinstance(value[flag], bool) for flag in flags)


def _is_byte_level(component: object, parts: str) -> bool:
    """Whether a component is ByteLevel as GPT-2 splits text, or a sequence of that one."""
    if not isinstance(component, dict):
        return False
    if component.get("type") == "Sequence":
        inner = component.get(parts)
        return isinstance(inner, list) and len(inner) == 1 and _is_byte_level(inner[0], "")
    splits_like_gpt2 = component.get("type") == "ByteLevel" and component.get("use_regex", True) is True
    return splits_like_gpt2 and isinstance(component.get("add_prefix_space", True), bool)
