"""Find the tokenizer of a checkpoint.

In this order: the one given, the one that lies with the weights, as tokenizer.json or in the former files of
transformers, an installed openai-whisper's assets, the packaged weights' tokenizer of the same vocabulary. The last two
are the tokenizers that Whisper was trained with; a vocabulary file beside the weights must agree with them.
"""

import base64
import os
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from whisper2max.checkpoints import hub, packaged
from whisper2max.checkpoints.files import quoted, read_bytes, read_json
from whisper2max.checkpoints.layouts import TOKENIZER
from whisper2max.checkpoints.tokenizer_files import (
    MERGES,
    VOCAB,
    from_vocabulary_and_merges,
    read_vocab,
    whisper_tokenizer_json,
)
from whisper2max.core.errors import TokenizerError
from whisper2max.runtime.languages import LANGUAGES
from whisper2max.runtime.tokenizer_json import read_tokenizer_json
from whisper2max.runtime.tokens import N_TIMESTAMPS, SMALLEST_MULTILINGUAL_VOCABULARY, Tokenizer


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
    if beside is not None and os.path.lexists(beside / TOKENIZER):
        return _checked(read_bytes(beside / TOKENIZER, TokenizerError), n_vocab, "tokenizer.json of the checkpoint")
    if beside is not None and (built := from_vocabulary_and_merges(beside)) is not None:
        return _checked(built, n_vocab, f"{VOCAB} and {MERGES} of the checkpoint")
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
    return whisper_tokenizer_json(ranks, list(LANGUAGES)[:n_languages]), f"openai-whisper's {name}"


def _read_given(given: str | Path) -> bytes:
    path = Path(os.path.expanduser(given))
    if os.path.isdir(path):
        path = path / TOKENIZER
    if os.path.lexists(path):
        return read_bytes(path, TokenizerError)
    if isinstance(given, str) and hub.is_hub_id(given):
        return read_bytes(hub.fetch_tokenizer(given), TokenizerError)
    raise TokenizerError(
        f"--tokenizer {given} does not exist; give a tokenizer.json, a directory that holds one, or a hub id "
        "such as openai/whisper-base."
    )


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
    ours = {token: text for text, token in read_tokenizer_json(resolved.json).vocab.items() if token < eot}
    differing = [token for token, text in ours.items() if texts.get(token) != text]
    if differing:
        theirs = texts.get(differing[0])
        raise TokenizerError(
            f"{folder / name} has {'nothing' if theirs is None else quoted(theirs)} at the id {differing[0]}, where "
            f"{resolved.origin} has {ours[differing[0]]!r}, and {len(differing) - 1} more differ: this checkpoint was "
            "trained with a tokenizer of its own. Pass its tokenizer.json with --tokenizer."
        )


def _vocabulary_file(folder: Path) -> tuple[str, dict[int, str]] | None:
    """The name of the file that lists the vocabulary, and its text tokens by id."""
    if os.path.lexists(folder / VOCAB):
        return VOCAB, {token: text for text, token in read_vocab(folder / VOCAB).items()}
    if os.path.lexists(folder / "vocabulary.json"):
        return "vocabulary.json", dict(enumerate(read_json(folder / "vocabulary.json", TokenizerError, list)))
    if os.path.lexists(folder / "vocabulary.txt"):
        content = read_bytes(folder / "vocabulary.txt", TokenizerError)
        return "vocabulary.txt", dict(enumerate(content.decode("utf-8", "replace").split("\n")))
    return None
