"""Exceptions that say what is wrong, where, and what to do.

Every message is one paragraph, written for the person at the terminal: the offender, what was
expected, and the remedy. The command line prints it without a traceback and exits with
`exit_code`.
"""


from whisper2max.core.printable import printable


class Whisper2MaxError(Exception):
    """Base of every error that whisper2max raises on purpose.

    Names that come from files are part of many messages; what would move a terminal is escaped in all of them.

    Attributes:
        exit_code: the process exit status, 1 for a check that failed, 2 for unusable input.
    """

    exit_code = 2
    _line_breaks = ""

    def __init__(self, message: object):
        super().__init__(printable(message, keep=self._line_breaks))


class UsageError(Whisper2MaxError):
    """The options contradict each other or name something that does not exist."""


class OutputError(UsageError):
    """A file that was asked for cannot be written where it was asked for."""


class CheckpointError(Whisper2MaxError):
    """A checkpoint cannot be read, is incomplete, or is not a Whisper model."""


class TokenizerError(Whisper2MaxError):
    """A tokenizer is missing or belongs to another model."""


class SpecError(Whisper2MaxError):
    """A module tree or a graph specification is inconsistent."""


class BuildError(Whisper2MaxError):
    """Generated source failed to run or a graph failed to compile; the lines around the fault are shown."""

    _line_breaks = "\n"


class ArtifactError(Whisper2MaxError):
    """An artifact is damaged, of another format, or needs another machine or MAX version."""


class AudioError(Whisper2MaxError):
    """An audio input cannot be decoded or holds no sound."""


class ParityError(Whisper2MaxError):
    """The compiled graphs do not compute what the reference computes."""

    exit_code = 1
