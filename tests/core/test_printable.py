"""No text from outside moves a terminal."""

import unicodedata

import pytest

from whisper2max.core.errors import ArtifactError, BuildError
from whisper2max.core.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Größe 音声 \U0001f600", "plain Größe 音声 \U0001f600"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\nb\r\tc\x00\x7f", "a\\nb\\r\\tc\\x00\\x7f"),
        ("\x9b31m", "\\x9b31m"),
        ("left\u202eright\u200b", "left\\u202eright\\u200b"),
        ("line\u2028break", "line\\u2028break"),
        ("half \ud800", "half \\ud800"),
        ("file \udcff", "file \\udcff"),
        ("\ufeffmark \U000e0041", "\\ufeffmark \\U000e0041"),
    ],
)
def test_what_moves_a_terminal_or_hides_is_spelled_out(text, shown):
    assert printable(text) == shown


def test_everything_shown_can_be_shown():
    every = "".join(map(chr, (*range(0x10000), 0x1F600, 0xE0041, 0x10FFFF)))
    shown = printable(every)
    assert not {unicodedata.category(each) for each in set(shown)} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    shown.encode("utf-8")


def test_line_breaks_are_kept_where_they_are_meant():
    assert printable("a\n\x1b", keep="\n") == "a\n\\x1b"
    assert str(BuildError("line 1\nline 2\x1b")) == "line 1\nline 2\\x1b"


def test_messages_are_printable():
    assert str(ArtifactError("evil\x1b[2J\nname")) == "evil\\x1b[2J\\nname"
    assert printable(3.5) == "3.5"
