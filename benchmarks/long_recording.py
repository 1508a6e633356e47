"""What a recording of hours costs: python benchmarks/long_recording.py ARTIFACT AUDIO [--batch_size N] [--segments N]

Prints one line of JSON: seconds of the recording, its language, the segments that were heard before it was stopped,
seconds until the first window is known and until the first segment, those of decoding alone with --decoding, the peak
of resident memory in MB, and the conditions. A process of its own for each call: a peak is that of a process.
"""

import argparse
import json
import os
import re
import time
from pathlib import Path

from measure import conditions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("audio")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--segments", type=int, default=40, help="stop after so many")
    parser.add_argument("--decoding", action="store_true", help="decode the file alone as well")
    options = parser.parse_args()

    import whisper2max
    from whisper2max.runtime.audio import open_sound

    decoding = None
    if options.decoding:
        started = time.perf_counter()
        for _ in open_sound(options.audio).pieces():
            pass
        decoding = time.perf_counter() - started
    model = whisper2max.load(options.artifact)
    started = time.perf_counter()
    segments, info = model.transcribe(options.audio, batch_size=options.batch_size)
    first_window, first_segment, count = time.perf_counter() - started, None, 0
    for count, _ in enumerate(segments, 1):
        first_segment = first_segment or time.perf_counter() - started
        if count == options.segments:
            break
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    figures = {
        "duration": info.duration,
        "language": info.language,
        "segments": count,
        "first_window": first_window,
        "first_segment": first_segment,
        "decoding": decoding,
        "peak_mb": peak,
        "conditions": conditions(),
    }
    print(json.dumps(figures), flush=True)
    os._exit(0)  # to tear MAX down takes time, and there is nothing left to do


if __name__ == "__main__":
    main()
