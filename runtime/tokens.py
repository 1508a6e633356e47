"""Whisper's tokens: special ids, prompts, suppressed ids, text to ids and back.

Behaviour follows openai-whisper's `whisper/tokenizer.py`; the vocabulary comes from a `tokenizer.json`
in the format of the `tokenizers` library. No id is a constant here: each one is looked up by its text
and cross-checked against the size of the model's vocabulary.

Ids become text by a table of bytes. The `tokenizers` library, which is slow to read a vocabulary and holds it twice, is
loaded by the first text that is to become ids: most transcriptions have none.
"""

import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from whisper2max.errors import TokenizerError, UsageError

if TYPE_CHECKING:
    import tokenizers

N_TIMESTAMPS = 1501
SECONDS_PER_TIMESTAMP = 0.02
SMALLEST_MULTILINGUAL_VOCABULARY = 51865
REMEDY = "Pass the tokenizer.json that belongs to these weights with --tokenizer."

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

# fmt: off
LANGUAGES = {
    "en": "english", "zh": "chinese", "de": "german", "es": "spanish", "ru": "russian", "ko": "korean",
    "fr": "french", "ja": "japanese", "pt": "portuguese", "tr": "turkish", "pl": "polish",
    "ca": "catalan", "nl": "dutch", "ar": "arabic", "sv": "swedish", "it": "italian", "id": "indonesian",
    "hi": "hindi", "fi": "finnish", "vi": "vietnamese", "he": "hebrew", "uk": "ukrainian", "el": "greek",
    "ms": "malay", "cs": "czech", "ro": "romanian", "da": "danish", "hu": "hungarian", "ta": "tamil",
    "no": "norwegian", "th": "thai", "ur": "urdu", "hr": "croatian", "bg": "bulgarian",
    "lt": "lithuanian", "la": "latin", "mi": "maori", "ml": "malayalam", "cy": "welsh", "sk": "slovak",
    "te": "telugu", "fa": "persian", "lv": "latvian", "bn": "bengali", "sr": "serbian",
    "az": "azerbaijani", "sl": "slovenian", "kn": "kannada", "et": "estonian", "mk": "macedonian",
    "br": "breton", "eu": "basque", "is": "icelandic", "hy": "armenian", "ne": "nepali",
    "mn": "mongolian", "bs": "bosnian", "kk": "kazakh", "sq": "albanian", "sw": "swahili",
    "gl": "galician", "mr": "marathi", "pa": "punjabi", "si": "sinhala", "km": "khmer", "sn": "shona",
    "yo": "yoruba", "so": "somali", "af": "afrikaans", "oc": "occitan", "ka": "georgian",
    "be": "belarusian", "tg": "tajik", "sd": "sindhi", "gu": "gujarati", "am": "amharic",
    "yi": "yiddish", "lo": "lao", "uz": "uzbek", "fo": "faroese", "ht": "haitian creole", "ps": "pashto",
    "tk": "turkmen", "nn": "nynorsk", "mt": "maltese", "sa": "sanskrit", "lb": "luxembourgish",
    "my": "myanmar", "bo": "tibetan", "tl": "tagalog", "mg": "malagasy", "as": "assamese", "tt": "tatar",
    "haw": "hawaiian", "ln": "lingala", "ha": "hausa", "ba": "bashkir", "jw": "javanese",
    "su": "sundanese", "yue": "cantonese",
}

LANGUAGE_ALIASES = {
    "burmese": "my", "valencian": "ca", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb",
    "pushto": "ps", "panjabi": "pa", "moldavian": "ro", "moldovan": "ro", "sinhalese": "si",
    "castilian": "es", "mandarin": "zh",
}
# fmt: on

# The tokenizer.json of the first English-only models spells Hebrew so.
FORMER_CODES = {"iw": "he"}

LANGUAGE_CODES = {name: code for code, name in LANGUAGES.items()} | LANGUAGE_ALIASES


def language_code(language: str) -> str:
    """The code of a language given by code or English name, in any case: "German" -> "de".

    Raises:
        UsageError: no language of Whisper has this code or name.
    """
    lowered = language.lower()
    if lowered in LANGUAGES:
        return lowered
    if lowered in LANGUAGE_CODES:
        return LANGUAGE_CODES[lowered]
    raise UsageError(
        f"language {language!r} is not one of Whisper's; "
        f"give a code such as {', '.join(list(LANGUAGES)[:8])} or an English name such as german."
    )


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


class Tokenizer:
    """The tokenizer of one Whisper model. Build it with `Tokenizer.from_json`.

    Attributes:
        n_vocab: size of the model's vocabulary, timestamps included.
        special: ids of the special tokens.
    """

    def __init__(self, source: str | bytes, texts: list[str], special: SpecialTokens, n_vocab: int):
        self.n_vocab = n_vocab
        self.special = special
        self._source = source
        # one string, not fifty thousand, which would keep all the memory that the parsed file took
        self._texts = "".join(texts)
        self._starts = array("I", accumulate(map(len, texts), initial=0))
        self._blank = texts.index(BYTE_TEXTS[ord(" ")])

    @classmethod
    def from_json(cls, text: str | bytes, n_vocab: int) -> "Tokenizer":
        """The tokenizer that a tokenizer.json describes, checked against the model's vocabulary.

        Text tokens, special tokens and 1501 timestamps must make up `n_vocab` ids without gap or
        overlap. The file may or may not list the timestamps.

        Raises:
            TokenizerError: the file is no tokenizer.json, or belongs to another model.
        """
        document = _parse(text)
        added = document["added_tokens"]
        ids = dict(document["model"]["vocab"])
        for token in added:
            if ids.setdefault(token["content"], token["id"]) != token["id"]:
                raise TokenizerError(
                    f"tokenizer.json gives {token['content']!r} the ids {ids[token['content']]} and "
                    f"{token['id']}; a token has one id. {REMEDY}"
                )
        special = _resolve_specials(ids, n_vocab)
        _check_ids(ids, special, n_vocab)
        if BYTE_TEXTS[ord(" ")] not in ids:
            raise TokenizerError(f"tokenizer.json has no token for a space: it is not a byte-level BPE. {REMEDY}")
        texts = sorted(ids, key=ids.get)[: special.timestamp_begin]
        return cls(text, texts, special, n_vocab)

    def check(self) -> None:
        """Compare with the tokenizers library, as whoever made the file should.

        Raises:
            TokenizerError: the library cannot read the file, or some id means another text to it.
        """
        ids = range(self.special.eot)
        theirs = self._encoding.decode_batch([[token] for token in ids], skip_special_tokens=False)
        differing = [token for token in ids if self.decode([token]) != theirs[token]]
        if differing:
            raise TokenizerError(
                f"the tokenizers library reads the id {differing[0]} as {theirs[differing[0]]!r}, but its token is "
                f"{self._text(differing[0])!r}: tokenizer.json is not a byte-level BPE. {REMEDY}"
            )

    def encode(self, text: str) -> list[int]:
        """Ids of text alone: no special token is added, and one spelled out in the text is plain text."""
        return self._encoding.encode(text, add_special_tokens=False).ids

    def decode(self, ids) -> str:
        """Text of ids; special tokens and timestamps leave none, half a character leaves U+FFFD."""
        return self._decode_text([int(token) for token in ids if token < self.special.eot])

    def decode_with_timestamps(self, ids) -> str:
        """Text of ids with special tokens and timestamps spelled out, e.g. `<|1.08|>`."""
        pieces, pending = [], []
        for token in map(int, ids):
            if token < self.special.eot:
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

        document = json.loads(self._source)
        document["added_tokens"] = [{**token, "special": True} for token in document["added_tokens"]]
        try:
            encoding = tokenizers.Tokenizer.from_str(json.dumps(document))
        except Exception as error:
            raise TokenizerError(
                f"the tokenizers library cannot read tokenizer.json: {error}. {REMEDY}"
            ) from error
        encoding.encode_special_tokens = True
        encoding.no_truncation()
        encoding.no_padding()
        return encoding

    def _decode_text(self, ids: Iterable[int]) -> str:
        return b"".join(_bytes(self._text(token)) for token in ids).decode(errors="replace")

    def _text(self, token: int) -> str:
        return self._texts[self._starts[token] : self._starts[token + 1]]

    def _special_text(self, token: int) -> str:
        if token >= self.special.timestamp_begin:
            return timestamp_text(token - self.special.timestamp_begin)
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


def _bytes(token: str) -> bytes:
    try:
        return bytes(_BYTES[text] for text in token)
    except KeyError:  # not spelled in bytes; the tokenizers library takes it as text, too
        return token.encode()


def _parse(text: str | bytes) -> dict:
    try:
        document = json.loads(text)
        vocab, added = document["model"]["vocab"], document["added_tokens"]
        ids = [*vocab.values(), *(token["id"] for token in added)]
        well_formed = all(type(token) is int for token in ids) and all("content" in token for token in added)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(
            f"the tokenizer is not a tokenizer.json of the tokenizers library: {error!r}. {REMEDY}"
        ) from error
    if not well_formed:
        raise TokenizerError(
            f"the tokenizer is not a byte-level BPE tokenizer.json, as every Whisper has. {REMEDY}"
        )
    return document


def _resolve_specials(ids: dict[str, int], n_vocab: int) -> SpecialTokens:
    found = {}
    for name, texts in SPECIAL_TEXTS.items():
        found[name] = next((ids[text] for text in texts if text in ids), None)
    missing = [" or ".join(SPECIAL_TEXTS[name]) for name, token in found.items() if token is None]
    if missing:
        raise TokenizerError(
            f"tokenizer.json lacks {', '.join(missing)}: it is not a Whisper tokenizer. {REMEDY}"
        )
    spoken = sorted((token, text) for text, token in ids.items() if found["sot"] < token < found["translate"])
    codes = {token: text.strip("<|>") for token, text in spoken}
    languages = {FORMER_CODES.get(code, code): token for token, code in codes.items()}
    return SpecialTokens(
        **found,
        timestamp_begin=found["no_timestamps"] + 1,
        languages=languages,
        multilingual=n_vocab >= SMALLEST_MULTILINGUAL_VOCABULARY,
    )


def _check_ids(ids: dict[str, int], special: SpecialTokens, n_vocab: int) -> None:
    made_up = special.timestamp_begin + N_TIMESTAMPS
    if made_up != n_vocab:
        n_special = special.timestamp_begin - special.eot
        raise TokenizerError(
            f"tokenizer.json has {special.eot} text tokens, {n_special} special tokens and "
            f"{N_TIMESTAMPS} timestamps, {made_up} in all, but the model's vocabulary has {n_vocab}: "
            f"the tokenizer belongs to another model. {REMEDY}"
        )
    names: dict[int, str] = {}
    for text, token in ids.items():
        if names.setdefault(token, text) != text:
            raise TokenizerError(
                f"tokenizer.json gives the id {token} to {names[token]!r} and {text!r}. {REMEDY}"
            )
    order = [special.eot, special.sot, *special.languages.values()]
    order += [special.translate, special.transcribe, special.sot_lm, special.sot_prev, special.no_speech]
    order += [special.no_timestamps]
    unnamed = [token for token in range(special.timestamp_begin) if token not in names]
    if unnamed or order != list(range(special.eot, special.timestamp_begin)):
        gaps = f"no token has the id {unnamed[0]}" if unnamed else f"the special tokens have the ids {order}"
        raise TokenizerError(
            f"tokenizer.json does not number its tokens as Whisper does: {gaps}; text comes first, then "
            f"endoftext, startoftranscript, the languages, and the six other special tokens. {REMEDY}"
        )
    for token, text in names.items():
        if token >= special.timestamp_begin and text != timestamp_text(token - special.timestamp_begin):
            raise TokenizerError(
                f"tokenizer.json has {text!r} at the id {token}, where timestamps belong. {REMEDY}"
            )
