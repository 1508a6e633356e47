"""Text from outside, made fit to be shown: what would move a terminal or hide itself is spelled out."""

import unicodedata
from collections.abc import Iterable

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def printable(text: object, keep: str = "") -> str:
    """The text with every control, format, surrogate and unassigned character as its Python escape.

    So a name with an escape sequence, a line break or a change of writing direction reads as what it is: "a\\x1b[2J".

    Args:
        text: anything; shown as `str` shows it.
        keep: control characters to leave, such as a line break where several lines are meant.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        each if each in keep or unicodedata.category(each) not in _HIDDEN else each.encode("unicode_escape").decode()
        for each in text
    )


def shortened(items: Iterable[str], separator: str = ", ", most: int = 8) -> str:
    """The first items and how many more there are, for messages."""
    items = list(items)
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join(items[:most] + more) or "nothing"
