"""Where a checkpoint's tokenizer comes from.

In this order: the one given, the one that lies with the weights, an installed openai-whisper's assets,
the packaged weights' tokenizer of the same vocabulary. The last two are the tokenizers that Whisper was
trained with; a vocabulary file beside the weights must agree with them.
"""

import base64
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from whisper2max.checkpoints import packaged
from whisper2max.checkpoints.files import read_json, refuse_stand_in
from whisper2max.errors import CheckpointError, TokenizerError
from whisper2max.runtime.languages import LANGUAGES
from whisper2max.runtime.tokens import BYTE_TEXTS, N_TIMESTAMPS, SMALLEST_MULTILINGUAL_VOCABULARY, Tokenizer

FILE_NAME = "tokenizer.json"


class ResolvedTokenizer(NamedTuple):
    """A tokenizer and where it came from."""

    json: bytes
    tokenizer: Tokenizer
    origin: str


def resolve_tokenizer(
    n_vocab: int, given: str | Path | None = None, beside: Path | None = None
) -> ResolvedTokenizer:
    """Find the tokenizer of a vocabulary of this size.

    Args:
        n_vocab: rows of the token embedding.
        given: a tokenizer.json, a directory that holds one, or a hub id; the user's word goes first.
        beside: the directory of the weights.

    Raises:
        TokenizerError: none is found, or it belongs to another model.
    """
    if given is not None:
        return _checked(_read_given(given), n_vocab, "given by --tokenizer")
    if beside is not None and (beside / FILE_NAME).exists():
        return _checked(_read(beside / FILE_NAME), n_vocab, "tokenizer.json of the checkpoint")
    for found in (from_openai_assets(n_vocab), packaged.tokenizer_of(n_vocab)):
        if found is not None:
            resolved = _checked(found[0], n_vocab, found[1])
            if beside is not None:
                _check_vocabulary_file(beside, resolved)
            return resolved
    raise TokenizerError(
        f"the checkpoint has no tokenizer, and none for a vocabulary of {n_vocab} tokens is installed. Pass "
        "the "
        "tokenizer.json of the model that it was trained from with --tokenizer, or `pip install "
        "openai-whisper`."
    )


def from_openai_assets(n_vocab: int) -> tuple[bytes, str] | None:
    """The tokenizer that an installed openai-whisper holds for this vocabulary, and its origin."""
    multilingual = n_vocab >= SMALLEST_MULTILINGUAL_VOCABULARY
    name = "multilingual.tiktoken" if multilingual else "gpt2.tiktoken"
    spec = find_spec("whisper")
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = next((asset for folder in folders if (asset := Path(folder) / "assets" / name).is_file()), None)
    if path is None:
        return None
    ranks = [base64.b64decode(line.split()[0]) for line in path.read_bytes().splitlines() if line]
    n_languages = n_vocab - len(ranks) - N_TIMESTAMPS - 8
    if not 0 < n_languages <= len(LANGUAGES):
        return None
    return tokenizer_json(ranks, list(LANGUAGES)[:n_languages]), f"openai-whisper's {name}"


def tokenizer_json(ranks: list[bytes], languages: list[str]) -> bytes:
    """A tokenizer.json of byte-level BPE tokens in the order of their ids, and Whisper's special tokens."""

    def spell(token: bytes) -> str:
        return "".join(BYTE_TEXTS[byte] for byte in token)

    rank_of = {token: rank for rank, token in enumerate(ranks)}
    merges = [list(map(spell, split_token(token, rank_of))) for token in ranks if len(token) > 1]
    specials = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in languages)]
    specials += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    specials += ["<|notimestamps|>"]
    added = [added_token(len(ranks) + index, text) for index, text in enumerate(specials)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": {spell(token): rank for token, rank in rank_of.items()},
            "merges": merges,
        },
    }
    return json.dumps(document, ensure_ascii=False).encode()


def added_token(token: int, text: str) -> dict:
    """The entry of a special token in a tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": text, **flags}


def split_token(token: bytes, rank_of: dict[bytes, int]) -> list[bytes]:
    """The two parts whose merge makes a token: BPE with the tokens of lower rank only."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        ranks = [
            rank_of.get(parts[index] + parts[index + 1], len(rank_of)) for index in range(len(parts) - 1)
        ]
        best = ranks.index(min(ranks))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def _read_given(given: str | Path) -> bytes:
    path = Path(os.path.expanduser(given))
    if os.path.isdir(path):
        path = path / FILE_NAME
    if os.path.exists(path):
        return _read(path)
    from whisper2max.checkpoints import hub

    if isinstance(given, str) and hub.is_hub_id(given):
        return _read(hub.fetch_tokenizer(given))
    raise TokenizerError(
        f"--tokenizer {given} does not exist; give a tokenizer.json, a directory that holds one, or a hub id "
        "such as openai/whisper-base."
    )


def _read(path: Path) -> bytes:
    try:
        refuse_stand_in(path)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from error
    return path.read_bytes()


def _checked(content: bytes, n_vocab: int, origin: str) -> ResolvedTokenizer:
    tokenizer = Tokenizer.from_json(content, n_vocab)
    tokenizer.check()
    return ResolvedTokenizer(content, tokenizer, origin)


def _check_vocabulary_file(folder: Path, resolved: ResolvedTokenizer) -> None:
    stated = _vocabulary_file(folder)
    if stated is None:
        return
    name, texts = stated
    eot = resolved.tokenizer.special.eot
    ours = {token: text for text, token in json.loads(resolved.json)["model"]["vocab"].items() if token < eot}
    differing = [token for token, text in ours.items() if texts.get(token) != text]
    if differing:
        raise TokenizerError(
            f"{folder / name} has {texts.get(differing[0])!r} at the id {differing[0]}, where "
            f"{resolved.origin} has "
            f"{ours[differing[0]]!r}, and {len(differing) - 1} more differ: this checkpoint was trained with "
            "a "
            "tokenizer of its own. Pass its tokenizer.json with --tokenizer."
        )


def _vocabulary_file(folder: Path) -> tuple[str, dict[int, str]] | None:
    if (folder / "vocab.json").exists():
        return "vocab.json", {token: text for text, token in read_json(folder / "vocab.json").items()}
    if (folder / "vocabulary.json").exists():
        return "vocabulary.json", dict(enumerate(_read_list(folder / "vocabulary.json")))
    if (folder / "vocabulary.txt").exists():
        lines = (folder / "vocabulary.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        return "vocabulary.txt", dict(enumerate(lines))
    return None


def _read_list(path: Path) -> list:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON ({error}); download the checkpoint again.") from error
    if not isinstance(content, list):
        raise TokenizerError(f"{path} holds a JSON {type(content).__name__}, expected a list of tokens.")
    return content
