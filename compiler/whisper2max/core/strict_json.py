"""JSON from outside, read strictly: bounded in size, of one meaning only, and text throughout."""

import json
import re

from whisper2max.core.errors import Whisper2MaxError
from whisper2max.core.printable import printable

MOST_BYTES = 16 << 20
"""Of a configuration. The longest that Whisper has, generation_config.json, is 13 kB; a vocabulary takes 3 MB."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(content: bytes, where: object, error: type[Whisper2MaxError], remedy: str, kind: type = dict):
    """The value of a JSON document.

    Refused are: more than `MOST_BYTES`, text that is not UTF-8, a key twice in one object, numbers that are not finite,
    half a surrogate pair, and nesting deeper than Python reads.

    Args:
        content: the document.
        where: its file, for the message.
        error: what to raise.
        remedy: the end of the message: a sentence that says what to do.
        kind: what the outermost value must be, dict or list.

    Raises:
        Whisper2MaxError: of the type asked for; it is not such a document.
    """
    if len(content) > MOST_BYTES:
        raise error(f"{where} has {len(content):,} bytes, more than the {MOST_BYTES:,} that are read as JSON. {remedy}")
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
        if _SURROGATE.search(content):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as failure:
        raise error(f"{where} is not usable JSON: it is nested too deeply. {remedy}") from failure
    except ValueError as failure:
        raise error(f"{where} is not valid JSON ({printable(failure)}). {remedy}") from failure
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list"}
        raise error(f"{where} holds a JSON {type(value).__name__}, expected {names[kind]}. {remedy}")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen, twice = set(), set()
        for key, _ in pairs:
            (twice if key in seen else seen).add(key)
        listed = ", ".join(map(ascii, sorted(twice)[:5]))
        raise ValueError(f"duplicate key {listed}{' and others' if len(twice) > 5 else ''}")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0.0:
        raise ValueError(f"{text[:20]} is not a finite number")
    return value
