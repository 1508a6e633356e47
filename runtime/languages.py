"""Whisper's languages, by code and by name, and what people write for them."""

import difflib

from whisper2max.core.errors import UsageError

AUTO = "auto"
"""Asks for the language to be detected, as None does."""

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

# Former codes, codes of a variety, and codes that others prefer.
OTHER_CODES = {
    "iw": "he", "in": "id", "ji": "yi", "mo": "ro", "jv": "jw", "nb": "no", "cmn": "zh", "fil": "tl",
}  # fmt: skip

LANGUAGE_CODES = {name: code for code, name in LANGUAGES.items()} | LANGUAGE_ALIASES


def language_code(language: str) -> str:
    """The code of a language given by code or English name, in any case: "German" -> "de".

    Subtags of a script or a region are dropped, as Whisper knows none: "en-US" -> "en", "zh_Hans_CN" -> "zh".

    Raises:
        UsageError: no language of Whisper has this code or name; the nearest ones are named.
    """
    lowered = language.strip().lower()
    tag = lowered.replace("_", "-").split("-")[0]
    for candidate in (lowered, lowered.replace("_", " ").replace("-", " "), tag):
        if candidate in LANGUAGES:
            return candidate
        if candidate in LANGUAGE_CODES:
            return LANGUAGE_CODES[candidate]
        if candidate in OTHER_CODES:
            return OTHER_CODES[candidate]
    near = difflib.get_close_matches(lowered[:40], [*LANGUAGE_CODES, *LANGUAGES], n=3)
    meant = f"did you mean {' or '.join(near)}? Otherwise " if near else ""
    raise UsageError(
        f"language {language[:40]!r} is not one of Whisper's; {meant}give a code such as "
        f"{', '.join(list(LANGUAGES)[:8])}, an English name such as german, or auto, which detects it."
    )
