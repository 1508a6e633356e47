"""JSON of one meaning, read in bounded time and memory."""

import json
import time

import pytest

from whisper2max.core.errors import CheckpointError
from whisper2max.core.strict_json import MOST_BYTES, parse


def read(content: bytes, kind: type = dict):
    return parse(content, "some/config.json", CheckpointError, "Get it again.", kind)


def test_json_is_read():
    value = {"text": "Größe \U0001f600", "list": [1, 2.5, None, True], "empty": {}}
    assert read(json.dumps(value).encode()) == read(json.dumps(value, ensure_ascii=False).encode()) == value
    assert read(b" [1]\n", list) == [1]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1} x', "Extra data"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        ('{"a": 1}'.encode("utf-16"), "can't decode"),
        (b'{"a": 1, "a": 1}', "duplicate key 'a'"),
        (b'[{"a": {"b": 1, "c": 2, "b": 3}}]', "duplicate key 'b'"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": -Infinity}', "-Infinity is not a finite number"),
        (b'{"a": 1e999}', "1e999 is not a finite number"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "4300"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"\\uDFFF": 1}', "surrogates not allowed"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"[1]", "holds a JSON list, expected an object"),
        (b"null", "holds a JSON NoneType, expected an object"),
    ],
)
def test_anything_else_is_refused_with_the_file_and_the_remedy(content, complaint):
    with pytest.raises(CheckpointError) as caught:
        read(content)
    message = str(caught.value)
    assert complaint in message and message.startswith("some/config.json ") and message.endswith(" Get it again.")
    assert message.isprintable() and len(message) < 400


def test_a_surrogate_pair_is_a_character():
    assert read(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_many_keys_take_no_longer_than_few():
    keys = ",".join(f'"k{number}":0' for number in range(200_000))
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="duplicate key 'k0'"):
        read(f'{{{keys},"k0":1}}'.encode())
    assert time.monotonic() - started < 5
    names = ", ".join(f'"k{number % 50}":0' for number in range(200))
    with pytest.raises(CheckpointError, match="duplicate key 'k0', 'k1', 'k10', 'k11', 'k12' and others"):
        read(f"{{{names}}}".encode())


def test_what_is_too_long_is_not_parsed():
    with pytest.raises(CheckpointError, match=f"has {MOST_BYTES + 1:,} bytes, more than the {MOST_BYTES:,}"):
        read(b" " * (MOST_BYTES + 1))
