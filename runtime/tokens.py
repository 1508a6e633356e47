"""Whisper's tokens: special ids, prompts, suppressed ids, text to ids and back.

Behaviour follows openai-whisper's `whisper/tokenizer.py`; the vocabulary comes from a `tokenizer.json`
in the format of the `tokenizers` library. No id is a constant here: each one is looked up by its text
and cross-checked against the size of the model's vocabulary.

Ids become text by a table of bytes. The `tokenizers` library, which is slow to read a vocabulary and holds it twice, is
loaded by the first text that is to become ids: most transcriptions have none.
"""

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from whisper2max.core.errors import TokenizerError, UsageError
from whisper2max.runtime.languages import OTHER_CODES, language_code
from whisper2max.runtime.tokenizer_json import REMEDY, AddedToken, TokenizerJson, for_the_library, read_tokenizer_json

if TYPE_CHECKING:
    import tokenizers

N_TIMESTAMPS = 1501
SECONDS_PER_TIMESTAMP = 0.02
SMALLEST_MULTILINGUAL_VOCABULARY = 51865
ENGLISH_VOCABULARY = 51864
PADDED_TO, MOST_PADDING = 8, 1024
"""Rows of an embedding beyond its last token: their number is made a multiple of a power of two, for speed."""

SPECIAL_TEXTS = {
    "eot": ("<|endoftext|>",),
    "sot": ("<|startoftranscript|>",),
    "translate": ("<|translate|>",),
    "transcribe": ("<|transcribe|>",),
    "sot_lm": ("<|startoflm|>",),
    "sot_prev": ("<|startofprev|>",),
    "no_speech": ("<|nospeech|>", "<|nocaptions|>"),
    "no_timestamps": ("<|notimestamps|>",),
}

def timestamp_text(index: int) -> str:
    """The text of the index-th timestamp token: 54 -> "<|1.08|>"."""
    return f"<|{index * SECONDS_PER_TIMESTAMP:.2f}|>"


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that are not text.

    Attributes:
        eot: end of the transcript; every id below it is text.
        sot: start of the transcript.
        sot_prev: start of the previous window's text, which conditions this one.
        sot_lm: start of text without audio; never sampled.
        translate: the task of translating into English.
        transcribe: the task of transcribing in the spoken language.
        no_speech: its probability at the start says whether nobody speaks.
        no_timestamps: asks for a transcript without timestamps.
        timestamp_begin: `<|0.00|>`; the following 1500 ids are 0.02 s apart.
        languages: id of each language code, in the order of the vocabulary.
        multilingual: whether the model was trained on other languages than English.
    """

    eot: int
    sot: int
    sot_prev: int
    sot_lm: int
    translate: int
    transcribe: int
    no_speech: int
    no_timestamps: int
    timestamp_begin: int
    languages: dict[str, int] = field(hash=False)
    multilingual: bool

    @property
    def timestamps(self) -> range:
        """Ids of the timestamps, `<|0.00|>` to `<|30.00|>`; ids beyond them are tokens that somebody added."""
        return range(self.timestamp_begin, self.timestamp_begin + N_TIMESTAMPS)


class Tokenizer:
    """The tokenizer of one Whisper model. Build it with `Tokenizer.from_json`.

    Attributes:
        n_vocab: rows of the model's token embedding.
        special: ids of the special tokens.
        padding: ids of rows that no token has; the model was not trained to tell anything by them.
        source: the tokenizer.json that it was made from.
    """

    def __init__(self, source: str | bytes, ids: dict[str, int], added: list[AddedToken], n_vocab: int):
        """Use `from_json`."""
        self.n_vocab = n_vocab
        self.special = _resolve_specials(ids)
        _check_ids(ids, self.special, n_vocab)
        if BYTE_TEXTS[ord(" ")] not in ids:
            raise TokenizerError(f"tokenizer.json has no token for a space: it is not a byte-level BPE. {REMEDY}")
        end = self.special.timestamps.stop
        self.source = source
        self._added = {token: AddedToken(token, text, False) for text, token in ids.items() if token >= end}
        self._added |= {token.id: token for token in added if token.id >= end}
        self.padding = tuple(token for token in range(end, n_vocab) if token not in self._added)
        texts = sorted(ids, key=ids.get)[: self.special.timestamp_begin]
        # one string, not fifty thousand, which would keep all the memory that the parsed file took
        self._texts = "".join(texts)
        self._starts = array("I", accumulate(map(len, texts), initial=0))
        self._blank = texts.index(BYTE_TEXTS[ord(" ")])

    @classmethod
    def from_json(cls, text: str | bytes, n_vocab: int) -> "Tokenizer":
        """The tokenizer that a tokenizer.json describes, checked against the model's vocabulary.

        Text tokens, special tokens and 1501 timestamps must number the first ids without gap or overlap, whether the
        file lists the timestamps or not. Tokens that were added to a trained model follow, and rows that pad the
        embedding to a multiple of 8.

        Raises:
            TokenizerError: the file is no tokenizer.json, or belongs to another model.
        """
        read = read_tokenizer_json(text)
        ids = dict(read.vocab)
        for token in read.added:
            if ids.setdefault(token.content, token.id) != token.id:
                raise TokenizerError(
                    f"tokenizer.json gives {_short(token.content)} the ids {ids[token.content]} and {token.id}; "
                    f"a token has one id. {REMEDY}"
                )
        return cls(text, ids, read.added, n_vocab)

    def check(self) -> None:
        """Compare with the tokenizers library, as whoever made the file should.

        Raises:
            TokenizerError: the library cannot read the file, or some id means another text to it.
        """
        theirs = self._encoding.get_vocab(with_added_tokens=True)
        ours = {self._text(token): token for token in range(self.special.timestamp_begin)}
        ours |= {token.content: token.id for token in self._added.values()}
        text = next((text for text, token in ours.items() if theirs.get(text) != token), None)
        if text is not None:
            raise TokenizerError(
                f"the tokenizers library gives {_short(text)} the id {theirs.get(text)}, and tokenizer.json "
                f"{ours[text]}: it does not number its tokens without gaps. {REMEDY}"
            )

    def encode(self, text: str) -> list[int]:
        """Ids of text alone: no special token is added, and one spelled out in the text is plain text.

        Tokens of text that were added to the vocabulary are found. Half a surrogate pair becomes U+FFFD.
        """
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._encoding.encode(text, add_special_tokens=False).ids

    def is_text(self, token: int) -> bool:
        """Whether an id is text, of the vocabulary or added to it."""
        return token < self.special.eot or (token in self._added and not self._added[token].special)

    def decode(self, ids) -> str:
        """Text of ids; special tokens and timestamps leave none, half a character leaves U+FFFD."""
        return self._decode_text(token for token in map(int, ids) if self.is_text(token))

    def decode_with_timestamps(self, ids) -> str:
        """Text of ids with special tokens and timestamps spelled out, e.g. `<|1.08|>`."""
        pieces, pending = [], []
        for token in map(int, ids):
            if self.is_text(token):
                pending.append(token)
                continue
            pieces += [self._decode_text(pending), self._special_text(token)]
            pending = []
        return "".join([*pieces, self._decode_text(pending)])

    def sot_sequence(self, language: str | None = None, task: str | None = None) -> tuple[int, ...]:
        """Ids that begin a transcript: start, language, task; for an English-only model the start alone.

        Args:
            language: code or English name; None means English, as in openai-whisper.
            task: "transcribe" or "translate"; None means transcribe.

        Raises:
            UsageError: the vocabulary has no such language, or there is no such task.
        """
        if task not in (None, "transcribe", "translate"):
            raise UsageError(f"task {task!r} is neither transcribe nor translate.")
        if not self.special.multilingual:
            return (self.special.sot,)
        code = language_code(language or "en")
        if code not in self.special.languages:
            raise UsageError(
                f"language {language!r} ({code}) is not among the {len(self.special.languages)} of this "
                "model: "
                f"{', '.join(self.special.languages)}."
            )
        task_token = self.special.translate if task == "translate" else self.special.transcribe
        return (self.special.sot, self.special.languages[code], task_token)

    def non_speech_tokens(self) -> tuple[int, ...]:
        """Ids of speaker tags, brackets, music and other signs that nobody speaks, sorted.

        The rule is openai-whisper's: a sign or a sign after a space counts when it is one token; musical
        notes count by their first token, which they share with U+2640 to U+267F only; hyphens and
        quotes count at the start of a word only.
        """
        return self._non_speech_tokens

    def default_suppress_tokens(self) -> list[int]:
        """Ids never sampled, sorted: the non-speech tokens and the special ones that only prompts use."""
        special = self.special
        never_sampled = (
            special.transcribe,
            special.translate,
            special.sot,
            special.sot_prev,
            special.sot_lm,
            special.no_speech,
        )
        return sorted({*self.non_speech_tokens(), *never_sampled})

    def begin_suppress_tokens(self) -> list[int]:
        """Ids never sampled first: the blank and the end."""
        return [self._blank, self.special.eot]

    @cached_property
    def _non_speech_tokens(self) -> tuple[int, ...]:
        signs = list('"#()*+/:;<=>@[\\]^_`{|}~「」『』')
        signs += "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split()
        notes = list("♩♪♫♬♭♮♯")
        result = {self.encode(" -")[0], self.encode(" '")[0]}
        for sign in signs + notes:
            for tokens in (self.encode(sign), self.encode(" " + sign)):
                if len(tokens) == 1 or sign in notes:
                    result.add(tokens[0])
        return tuple(sorted(result))

    @cached_property
    def _encoding(self) -> "tokenizers.Tokenizer":
        import tokenizers

        read = read_tokenizer_json(self.source)
        document = for_the_library(read, self._added.keys(), self._unlisted(read))
        try:
            encoding = tokenizers.Tokenizer.from_str(document)
        except Exception as error:  # the library raises Exception itself
            raise TokenizerError(
                f"the tokenizers library cannot read tokenizer.json: {str(error)[:300]}. {REMEDY}"
            ) from error
        encoding.encode_special_tokens = True
        return encoding

    def _unlisted(self, read: TokenizerJson) -> dict[int, str]:
        """Timestamps and padding that come before an added token and that the file does not list."""
        listed = {token.id for token in read.added}
        before = range(self.special.timestamp_begin, max(self._added, default=0))
        texts = {token: self._special_text(token) or f"<|padding {token}|>" for token in before}
        return {token: text for token, text in texts.items() if token not in listed}

    def _decode_text(self, ids: Iterable[int]) -> str:
        return b"".join(map(self._bytes, ids)).decode(errors="replace")

    def _bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].content.encode()
        text = self._text(token)
        try:
            return bytes(_BYTES[character] for character in text)
        except KeyError:  # not spelled in bytes; the tokenizers library takes it as text, too
            return text.encode()

    def _text(self, token: int) -> str:
        return self._texts[self._starts[token] : self._starts[token + 1]]

    def _special_text(self, token: int) -> str:
        if token in self.special.timestamps:
            return timestamp_text(token - self.special.timestamp_begin)
        if token >= self.special.timestamp_begin:
            return self._added[token].content if token in self._added else ""
        return self._text(token)


def _byte_texts() -> list[str]:
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTE_TEXTS = _byte_texts()
"""The printable character that stands for each byte in GPT-2's vocabularies."""

_BYTES = {text: byte for byte, text in enumerate(BYTE_TEXTS)}


_LANGUAGE = re.compile(r"<\|([A-Za-z][A-Za-z0-9_-]{0,15})\|>")


def _resolve_specials(ids: dict[str, int]) -> SpecialTokens:
    found = {}
    for name, texts in SPECIAL_TEXTS.items():
        found[name] = next((ids[text] for text in texts if text in ids), None)
    missing = [" or ".join(SPECIAL_TEXTS[name]) for name, token in found.items() if token is None]
    if missing:
        raise TokenizerError(
            f"tokenizer.json lacks {', '.join(missing)}: it is not a Whisper tokenizer. {REMEDY}"
        )
    spoken = sorted((token, text) for text, token in ids.items() if found["sot"] < token < found["translate"])
    codes = {token: match[1] for token, text in spoken if (match := _LANGUAGE.fullmatch(text))}
    languages = {OTHER_CODES.get(code, code): token for token, code in codes.items()}
    if not languages or len(languages) != len(spoken):
        raise TokenizerError(
            "tokenizer.json does not have one language each, such as <|en|>, between <|startoftranscript|> and "
            f"<|translate|>: it is not a Whisper tokenizer. {REMEDY}"
        )
    timestamp_begin = found["no_timestamps"] + 1
    return SpecialTokens(
        **found,
        timestamp_begin=timestamp_begin,
        languages=languages,
        multilingual=timestamp_begin + N_TIMESTAMPS >= SMALLEST_MULTILINGUAL_VOCABULARY,
    )


def _check_ids(ids: dict[str, int], special: SpecialTokens, n_vocab: int) -> None:
    _check_count(ids, special, n_vocab)
    names: dict[int, str] = {}
    for text, token in ids.items():
        if names.setdefault(token, text) != text:
            raise TokenizerError(
                f"tokenizer.json gives the id {token} to {_short(names[token])} and {_short(text)}. {REMEDY}"
            )
    order = [special.eot, special.sot, *special.languages.values()]
    order += [special.translate, special.transcribe, special.sot_lm, special.sot_prev, special.no_speech]
    order += [special.no_timestamps]
    unnamed = next((token for token in range(special.timestamp_begin) if token not in names), None)
    if unnamed is not None or order != list(range(special.eot, special.timestamp_begin)):
        listed = f"{str(order[:120])[1:-1]}{'...' if len(order) > 120 else ''}"
        gaps = f"the special tokens have the ids {listed}" if unnamed is None else f"no token has the id {unnamed}"
        raise TokenizerError(
            f"tokenizer.json does not number its tokens as Whisper does: {gaps}; text comes first, then "
            f"endoftext, startoftranscript, the languages, and the six other special tokens. {REMEDY}"
        )
    for token in special.timestamps:
        if names.get(token, expected := timestamp_text(token - special.timestamp_begin)) != expected:
            raise TokenizerError(
                f"tokenizer.json has {_short(names[token])} at the id {token}, where timestamps belong. {REMEDY}"
            )


def _check_count(ids: dict[str, int], special: SpecialTokens, n_vocab: int) -> None:
    """That the vocabulary has a row for every token, and no more rows than padding accounts for."""
    made_up = special.timestamps.stop
    added = sorted((token, text) for text, token in ids.items() if token >= made_up)
    without_row = [f"{_short(text)} ({token})" for token, text in added if token >= n_vocab]
    if made_up <= n_vocab and without_row:
        raise TokenizerError(
            f"tokenizer.json has more tokens than the model's embedding of {n_vocab} rows: {', '.join(without_row[:5])}"
            f"{f' and {len(without_row) - 5} more' if len(without_row) > 5 else ''} were added to the tokenizer, not "
            "to the model. Pass the tokenizer.json from before they were added with --tokenizer, or give the model "
            "rows for them (resize_token_embeddings) and train it."
        )
    named = added[-1][0] + 1 if added else made_up
    # the vocabulary of the English models is a multiple of 8 without any padding
    is_padded = n_vocab % PADDED_TO == 0 and n_vocab != ENGLISH_VOCABULARY and 0 < n_vocab - named < MOST_PADDING
    if named != n_vocab and not is_padded:
        n_special = special.timestamp_begin - special.eot
        raise TokenizerError(
            f"tokenizer.json has {special.eot} text tokens, {n_special} special tokens, {N_TIMESTAMPS} timestamps and "
            f"{len(added)} added tokens, {named} in all, but the model's vocabulary has {n_vocab}: "
            f"the tokenizer belongs to another model. {REMEDY}"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
