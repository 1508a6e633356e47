"""tokenizer.json made from what came before it: openai-whisper's ranks, or transformers' vocab.json and merges.txt."""

import json
import os
from pathlib import Path

from whisper2max.checkpoints.files import AGAIN, quoted, read_bytes, read_json, read_json_if_present
from whisper2max.core.errors import TokenizerError
from whisper2max.runtime.tokenizer_json import byte_level_bpe
from whisper2max.runtime.tokens import BYTE_TEXTS

VOCAB, MERGES, ADDED, TOKENIZER_CONFIG = "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"


def from_vocabulary_and_merges(folder: Path) -> bytes | None:
    """The tokenizer.json of the files that transformers' slow tokenizer had, or None unless all of them are there.

    Special tokens and those added later are in added_tokens.json or in tokenizer_config.json. A token is text unless
    the latter says that it is special, or, where it says nothing, unless it is written `<|so|>`.

    Raises:
        TokenizerError: one of them is damaged.
    """
    if not all(os.path.lexists(folder / name) for name in (VOCAB, MERGES)):
        return None
    config = read_json_if_present(folder / TOKENIZER_CONFIG) or {}
    decoder = config.get("added_tokens_decoder")
    added = _decoder_tokens(decoder, folder / TOKENIZER_CONFIG) if decoder is not None else {}
    if os.path.lexists(folder / ADDED):
        for text, token in read_vocab(folder / ADDED).items():
            added.setdefault(token, (text, text.startswith("<|") and text.endswith("|>")))
    if not added:
        return None
    lines = read_bytes(folder / MERGES, TokenizerError).decode("utf-8", "replace").split("\n")
    merges = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    wrong = next((line for line in merges if len(line) != 2), None)
    if wrong is not None:
        raise TokenizerError(f"{folder / MERGES} holds {quoted(' '.join(wrong))}, expected two tokens a line. {AGAIN}")
    tokens = [added_token(token, text, special) for token, (text, special) in sorted(added.items())]
    return _document(read_vocab(folder / VOCAB), merges, tokens)


def read_vocab(path: Path) -> dict[str, int]:
    """The ids by text of a vocab.json or an added_tokens.json.

    Raises:
        TokenizerError: it is damaged.
    """
    vocab = read_json(path, TokenizerError)
    wrong = next((text for text, token in vocab.items() if type(token) is not int), None)
    if wrong is not None:
        raise TokenizerError(f"{path} gives {quoted(wrong)} no id: it is not a vocabulary. {AGAIN}")
    return vocab


def whisper_tokenizer_json(ranks: list[bytes], languages: list[str]) -> bytes:
    """A tokenizer.json of byte-level BPE tokens in the order of their ids, and Whisper's special tokens."""

    def spell(token: bytes) -> str:
        return "".join(BYTE_TEXTS[byte] for byte in token)

    rank_of = {token: rank for rank, token in enumerate(ranks)}
    merges = [list(map(spell, split_token(token, rank_of))) for token in ranks if len(token) > 1]
    specials = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in languages)]
    specials += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    specials += ["<|notimestamps|>"]
    added = [added_token(len(ranks) + index, text) for index, text in enumerate(specials)]
    return _document({spell(token): rank for token, rank in rank_of.items()}, merges, added)


def added_token(token: int, text: str, special: bool = True) -> dict:
    """The entry of an added token in a tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
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


def _decoder_tokens(decoder: object, path: Path) -> dict[int, tuple[str, bool]]:
    """Text and whether it is special, by id, of an `added_tokens_decoder`."""
    tokens = {}
    for token, described in decoder.items() if isinstance(decoder, dict) else ():
        content = described.get("content") if isinstance(described, dict) else None
        if not token.isascii() or not token.isdigit() or len(token) > 9 or not isinstance(content, str):
            raise TokenizerError(f"{path} describes the added token {quoted(token)} without its content. {AGAIN}")
        tokens[int(token)] = content, described.get("special") is not False
    return tokens


def _document(vocab: dict[str, int], merges: list[list[str]], added: list[dict]) -> bytes:
    return json.dumps(byte_level_bpe(vocab, merges, added), ensure_ascii=False).encode()
