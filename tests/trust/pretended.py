"""A model that hears what it is told to, for tests of what the command line does around one.

Recordings are read as ever; what would come from the graphs does not.
"""

import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from whisper2max.cli import main as cli
from whisper2max.runtime import model
from whisper2max.runtime.audio import load_audio
from whisper2max.runtime.results import Segment

TEXTS = (" Good morning.", " It will be cold.")


class PretendedModel:
    """Stands for `whisper2max.runtime.model.Model`.

    Attributes:
        calls: recording and options of every call.
    """

    def __init__(self, heard: Iterable[str | BaseException] = TEXTS):
        self.heard = heard
        self.calls = []

    def transcribe(self, audio, **options):
        """Segments of a second with the texts; an exception among them is raised in its place."""
        self.calls.append((audio, options))
        load_audio(audio)
        return self._segments(), SimpleNamespace(language=None)

    def _segments(self):
        for number, text in enumerate(self.heard):
            if isinstance(text, BaseException):
                raise text
            yield Segment(number, 0, float(number), number + 1.0, text, [], 0.0, -0.1, 1.0, 0.0)


def install(heard: Iterable[str | BaseException] = TEXTS) -> PretendedModel:
    """Makes every artifact load as a pretended model, in this process."""
    pretended = PretendedModel(heard)
    model.load = lambda artifact, device="auto", cpu_threads=0: pretended
    return pretended


def installing(heard: Iterable[str] = TEXTS) -> str:
    """Python that does so in another process."""
    folder = str(Path(__file__).parent)
    return f"import sys; sys.path.insert(0, {folder!r}); import pretended; pretended.install({heard!r})\n"


def slowly() -> Iterator[str]:
    """Two texts, and between them a minute in which a thread waits for another process, as for one that compiles."""
    yield TEXTS[0]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(subprocess.run, ["sleep", "60"]).result()
    yield TEXTS[1]


if __name__ == "__main__":
    install(slowly())
    cli.main()
