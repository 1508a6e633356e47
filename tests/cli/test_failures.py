import errno

import pytest

from whisper2max.cli.failures import explain
from whisper2max.core.errors import AudioError, CheckpointError, ParityError
from whisper2max.runtime.languages import language_code


def raised(error, cause=None, context=None):
    """The exception as it is caught, after others."""
    try:
        try:
            if context is not None:
                raise context
        finally:
            if cause is not None:
                raise error from cause
            raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 99 bytes. Error code 12 (Cannot allocate memory)"
        ),
        RuntimeError("can't start new thread"),
        ValueError("std::bad_alloc"),
        raised(CheckpointError("a.pt cannot be read"), cause=RuntimeError("mmap: Cannot allocate memory (12)")),
        raised(KeyError("a"), context=MemoryError()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_ran_out(error):
    paragraph, status = explain(error)
    assert status == 2
    assert paragraph.startswith("Memory ran out (") and "ulimit -v" in paragraph


@pytest.mark.parametrize(
    "error",
    [
        raised(CheckpointError("it declares 9 billion tokens"), context=MemoryError()),
        AudioError("bad_alloc.wav does not exist"),
    ],
)
def test_our_own_words_are_not_mistaken_for_memory(error):
    assert explain(error) == (str(error), 2)


def test_our_own_errors():
    assert explain(ParityError("It differs.")) == ("It differs.", 1)


def test_a_fault_names_its_place_and_shows_no_control_characters():
    with pytest.raises(AttributeError) as caught:
        language_code(None)
    paragraph, status = explain(caught.value)
    assert status == 70
    assert "AttributeError: 'NoneType' object has no attribute" in paragraph
    assert "whisper2max.runtime.languages, line " in paragraph and "--debug" in paragraph
    paragraph, _ = explain(KeyError("\x1b[2J\n"))
    assert paragraph.isprintable() and "a place unknown" in paragraph
    assert explain(RuntimeError("first\nsecond"))[0].count("second") == 0


def test_what_the_system_refuses():
    with pytest.raises(OSError) as caught:
        open("/proc/self/\x1b")
    paragraph, status = explain(caught.value)
    assert status == 2 and paragraph.isprintable()
    assert "'No such file or directory' for /proc/self/\\x1b" in paragraph


def test_an_exception_that_caused_itself():
    error = KeyError("a")
    error.__context__ = ValueError("b")
    error.__context__.__context__ = error
    assert explain(error)[1] == 70
