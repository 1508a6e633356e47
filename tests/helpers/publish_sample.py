"""Publishes a sample artifact in a process of its own, to be killed or to compete with others.

    python publish_sample.py OUTPUT CONTENT fresh|force|fail|loop

`loop` publishes CONTENT.0, CONTENT.1 ... without end, and prints how many seconds the first took.
"""

import itertools
import sys
import time
from pathlib import Path

from artifact_samples import manifest_fields, write_files

from whisper2max.artifact.manifest import write_manifest
from whisper2max.artifact.publication import Publication
from whisper2max.core.errors import Whisper2MaxError


def publish(output: Path, content: str, mode: str, bulk: int = 0) -> None:
    publication = Publication(output, force=mode != "fresh")
    with publication as staging:
        write_files(staging, content)
        for number in range(bulk):
            (staging / f"kernels/bulk{number}.mojo").write_bytes(content.encode() * 50_000)
        if mode == "fail":
            publication.fail("A test failed it.")
        else:
            write_manifest(staging, manifest_fields(name=content))


def main() -> int:
    output, content, mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    try:
        if mode != "loop":
            publish(output, content, mode)
            return 0
        for number in itertools.count():
            started = time.monotonic()
            publish(output, f"{content}.{number}", "force", bulk=3)
            if number == 0:
                print(time.monotonic() - started, flush=True)
    except Whisper2MaxError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
