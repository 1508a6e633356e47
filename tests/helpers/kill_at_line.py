"""Runs a Python script and kills the process with SIGKILL at a chosen line of it, for tests of crash safety.

    python kill_at_line.py POINTS_FILE SCRIPT ARGUMENTS...     writes the name of the function at each point
    python kill_at_line.py 17 SCRIPT ARGUMENTS...              kills before the point 17

Points are the lines executed in the script itself, in shutil (which removes directories) and in the modules
of whisper2max, so points lie before and after each of their system calls. Python's public tracing finds them;
the code under test has no hooks.
"""

import importlib
import os
import runpy
import shutil
import signal
import sys


def main() -> None:
    where, script = sys.argv[1], sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path.insert(0, os.path.dirname(script))
    importlib.import_module("whisper2max.artifact.publication")
    points: list[str] = []
    last = int(where) if where.isdigit() else None

    def on_line(frame, event, argument):
        if event == "line":
            if len(points) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            points.append(frame.f_code.co_name)
        return on_line

    def on_call(frame, event, argument):
        file = frame.f_code.co_filename
        return (
            on_line if file in (script, shutil.__file__) or f"{os.sep}whisper2max{os.sep}" in file else None
        )

    sys.settrace(on_call)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.settrace(None)
        if last is None:
            with open(where, "w") as file:
                file.write("\n".join(points))


if __name__ == "__main__":
    main()
