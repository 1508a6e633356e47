"""The command line among people and other programs: recordings that fail, odd names, streams that break, signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pretended
import pytest
from limits import assert_refused, run_limited
from pretended import TEXTS

from whisper2max.cli import main as cli
from whisper2max.core.errors import AudioError
from whisper2max.samples import SPEECH

COMMAND = str(Path(sys.executable).with_name("whisper2max"))
SPOKEN = "".join(f"{text.strip()}\n" for text in TEXTS)


@pytest.fixture
def sounds(tmp_path, monkeypatch):
    """The working directory: two good recordings and a bad one."""
    monkeypatch.chdir(tmp_path)
    for name in ("good.flac", "good2.flac"):
        shutil.copy(SPEECH, name)
    Path("bad.mp3").write_bytes(b"This is no sound.\n" * 50)
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process, with a model that hears `heard`: exit status, stdout, lines of stderr."""

    def run(*arguments, heard=TEXTS):
        run.model = pretended.PretendedModel(heard)
        monkeypatch.setattr("whisper2max.runtime.model.load", lambda artifact, device="auto", cpu_threads=0: run.model)
        monkeypatch.setattr("sys.argv", ["whisper2max", *map(str, arguments)])
        status = cli.run()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err.splitlines()

    return run


def files(folder="out"):
    return sorted(os.listdir(folder)) if os.path.exists(folder) else []


# Recordings that fail


def test_every_recording_is_tried(sounds, command):
    status, shown, said = command(
        "transcribe", "any", "good.flac", "bad.mp3", "missing.wav", "good2.flac", "-f", "txt", "-o", "out"
    )
    assert status == 1
    assert shown == SPOKEN * 2
    assert files() == ["good.txt", "good2.txt"] and Path("out/good2.txt").read_text() == SPOKEN
    bad, missing, both = said
    assert bad.startswith("error: bad.mp3 ") and missing.startswith("error: missing.wav does not exist")
    assert both == "2 of 4 recordings failed: bad.mp3, missing.wav"


def test_none_could_be_read(sounds, command):
    status, shown, said = command("transcribe", "any", "bad.mp3", "missing.wav", "-f", "all", "-o", "out")
    assert (status, shown, files()) == (2, "", [])
    assert len(said) == 3 and said[-1].startswith("2 of 2 ")


def test_a_single_recording_is_named_once(sounds, command):
    status, _, said = command("transcribe", "any", "missing.wav")
    assert status == 2 and len(said) == 1
    status, _, said = command("transcribe", "any", "missing.wav", "missing.wav")
    assert status == 2 and said[-1] == "2 of 2 recordings failed: missing.wav, missing.wav"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (AudioError("The end of it is damaged."), 1, "good.flac: The end of it is damaged."),
        (MemoryError(), 1, "good.flac: Memory ran out (MemoryError)"),
        (KeyError("spam"), 70, "good.flac: This is a fault of whisper2max itself, KeyError: 'spam' in whisper2max."),
    ],
    ids=["sound", "memory", "fault"],
)
def test_what_happens_within_one_recording_leaves_the_others_alone(sounds, command, error, status, words):
    def fails_once():
        yield TEXTS[0]
        command.model.heard = TEXTS
        raise error

    arguments = ["transcribe", "any", "good.flac", "good2.flac", "-f", "txt", "-o", "out"]
    got, shown, said = command(*arguments, heard=fails_once())
    assert got == status
    assert shown == TEXTS[0].strip() + "\n" + SPOKEN
    assert files() == ["good2.txt"]
    assert said[0].startswith(f"error: {words}") and said[1] == "1 of 2 recordings failed: good.flac"


def test_a_transcript_that_cannot_be_written(sounds, command):
    os.makedirs("out/good.txt")
    status, shown, said = command("transcribe", "any", "good.flac", "good2.flac", "-f", "txt", "-o", "out")
    assert status == 1 and shown == SPOKEN * 2
    assert files() == ["good.txt", "good2.txt"]
    assert "good.flac: Nothing can be written to out" in said[0] and "--output_dir" in said[0]


# What is refused before the work


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["good.flac", "deeper/good.mp3"], ["good.flac and deeper/good.mp3", "out/good.txt"]),
        (["good.flac", "good.flac"], ["good.flac is given twice"]),
        (["good.flac", "./good.flac"], ["good.flac and ./good.flac"]),
        (["stdin.wav", "-"], ["stdin.wav and -"]),
        (["-", "-"], ["standard input can be read once"]),
        (["good.flac", "out/good.txt"], ["good.flac and out/good.txt"]),
        ([f"{'a' * 251}.mp3", "-f", "json"], ["more than 255 bytes", ".json"]),
        (["good.flac", "-o", "good.flac"], ["Nothing can be written to good.flac", "--output_dir"]),
        (["good.flac", "-o", "good.flac/below"], ["Nothing can be written to good.flac/below", "--output_dir"]),
        (["good.flac", "-o", "/proc/here"], ["Nothing can be written to /proc/here", "--output_dir"]),
        (["good.flac", "--language", "klingon"], ["'klingon'", "such as en"]),
    ],
)
def test_what_cannot_be_written_ends_all_before_the_work(sounds, command, arguments, words):
    before = sorted(sounds.rglob("*"))
    status, shown, said = command("transcribe", "any", "-f", "txt", "-o", "out", *arguments)
    assert (status, shown, len(said)) == (2, "", 1)
    assert command.model.calls == [] and sorted(sounds.rglob("*")) == before
    for part in words:
        assert part in said[0]


def test_the_directory_for_a_report_is_tried_before_the_work(sounds, command):
    status, _, said = command("verify", "gone", "--replay", "--report", "good.flac/below")
    assert status == 2 and len(said) == 1
    assert said[0].startswith("error: Nothing can be written to good.flac/below") and "--report" in said[0]


def test_a_recording_is_never_written_over(sounds, command):
    shutil.move("good.flac", "good.txt")
    status, _, said = command("transcribe", "any", "good.txt", "-f", "txt")
    assert status == 2 and "would be written over" in said[0]
    assert Path("good.txt").read_bytes() == SPEECH.read_bytes()


def test_one_name_twice_is_no_matter_on_the_terminal(sounds, command):
    assert command("transcribe", "any", "good.flac", "good.flac") == (0, SPOKEN * 2, [])


# Names


def test_standard_input(sounds):
    command = ["transcribe", "any", "-", "-f", "all", "-o", "out"]
    outcome = run_limited(command, cwd=sounds, before=pretended.installing(), stdin=SPEECH.read_bytes())
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, SPOKEN, "")
    assert files() == [f"stdin.{ending}" for ending in ("json", "srt", "tsv", "txt", "vtt")]
    assert json.loads(Path("out/stdin.json").read_text())["language"] is None
    before = pretended.installing() + "sys.stdin = None"
    assert_refused(run_limited(command, cwd=sounds, before=before), "Standard input is closed")
    assert_refused(run_limited(command, cwd=sounds, before=pretended.installing()), "standard input", "0 bytes")


@pytest.mark.parametrize("address", ["https://example.org/a.mp3", "rtsp://10.0.0.1/live", "s3://bucket/a.wav"])
def test_an_address_is_told_from_a_missing_path(sounds, command, address):
    status, _, said = command("transcribe", "any", address)
    assert status == 2 and len(said) == 1
    assert f"{address} is an address" in said[0] and "download it" in said[0]


def test_the_longest_names(sounds, command):
    names = {ending: "n" * (255 - 1 - len(ending)) for ending in ("flac", "txt", "json")}
    for name in names.values():
        shutil.copy(SPEECH, f"{name}.flac") if name != names["txt"] else shutil.copy(SPEECH, f"{name}.wav")
    status, _, said = command("transcribe", "any", f"{names['txt']}.wav", "-f", "txt", "-o", "out")
    assert (status, said, files()) == (0, [], [f"{names['txt']}.txt"])
    status, _, said = command("transcribe", "any", f"{names['json']}.flac", "-f", "all", "-o", "all")
    assert (status, said, len(files("all"))) == (0, [], 5)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("\udcff\udcfe", r"\udcff\udcfe"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
        ("a\x1b[2J\x07", r"a\x1b[2J\x07"),
        ("a\nerror: b", r"a\nerror: b"),
        ("\u202egnp", r"\u202egnp"),
        ("日本語", "日本語"),
    ],
)
def test_names_are_kept_on_the_disk_and_escaped_on_the_terminal(sounds, command, name, escaped):
    shutil.copy(SPEECH, f"{name}.flac")
    status, _, said = command("transcribe", "any", f"{name}.flac", f"{name}.absent", "-f", "txt", "-o", "out")
    assert status == 2 and len(said) == 1 and f"{escaped}.flac and {escaped}.absent" in said[0]
    status, _, said = command("transcribe", "any", f"{name}.flac", f"{name}2.absent", "-f", "txt", "-o", "out")
    assert status == 1 and os.listdir("out") == [f"{name}.txt"]
    assert said == [
        f"error: {escaped}2.absent does not exist; give the path of a sound file on this machine.",
        f"1 of 2 recordings failed: {escaped}2.absent",
    ]


def test_what_our_modules_log_is_escaped(sounds, command):
    content = bytearray(SPEECH.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    Path("damaged\x1b[2J.flac").write_bytes(content)
    status, _, said = command("transcribe", "any", "damaged\x1b[2J.flac")
    assert status == 0 and said and all(line.startswith(r"warning: damaged\x1b[2J.flac") for line in said)


@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe", "\udcff\x1b[2J", "good.flac"],
        ["inspect", "\udcff\x1b[2J"],
        ["compile", "\udcff\x1b[2J"],
        ["verify", "\udcff\x1b[2J", "--replay"],
        ["convert", "--checkpoint", "./\udcff\x1b[2J"],
        ["convert", "--size", "\udcff\x1b[2J"],
        ["convert", "--size", "base", "--tokenizer", "./\udcff\x1b[2J", "--random-init", "1"],
        ["\udcff\x1b[2J"],
        ["cache", "\udcff\x1b[2J"],
        ["transcribe", "--\udcff\x1b[2J"],
        ["transcribe", "a", "b", "--task", "\udcff\x1b[2J"],
    ],
)
def test_arguments_of_any_bytes_are_answered(tmp_path, arguments):
    message = assert_refused(run_limited(arguments, cwd=tmp_path), after_progress=True)
    assert r"\x1b[2J" in message
    assert os.listdir(tmp_path) == []


# What is heard and shown


def test_text_cannot_move_the_terminal(sounds, command):
    heard = (" bell\x07 \x1b[2J \x9b0m", " می\u200cخواهم क्\u200dष", " \u202eback")
    status, shown, _ = command("transcribe", "any", "good.flac", "-f", "txt", "-o", "out", heard=heard)
    assert status == 0
    assert shown == "bell\\x07 \\x1b[2J \\x9b0m\nمی\u200cخواهم क्\u200dष\n\\u202eback\n"
    assert Path("out/good.txt").read_bytes().decode() == "".join(f"{text.strip()}\n" for text in heard)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("latin-1", "Grüße ??\n"), ("cp1252", "Grüße ??\n"), ("ascii", "Gr??e ??\n"), ("utf-8", "Grüße 東京\n")],
)
def test_what_the_terminal_lacks_is_replaced_there_alone(sounds, encoding, shown):
    outcome = subprocess.run(
        [sys.executable, "-c", pretended.installing((" Grüße 東京",)) + "pretended.cli.main()"]
        + ["transcribe", "any", "good.flac", "-f", "all", "-o", "out"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    assert outcome.stdout.decode(encoding) == shown
    assert Path("out/good.txt").read_text(encoding="utf-8") == "Grüße 東京\n"
    assert json.loads(Path("out/good.json").read_text())["text"] == " Grüße 東京"


# Streams

FULL = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), {})\n"
BROKEN = "import os; r, w = os.pipe(); os.close(r); os.dup2(w, {})\n"
CLOSED = "import os, sys; os.close({}); sys.{} = None\n"
TAKE_OVER = "from whisper2max.cli.terminal import take_over; take_over()\n"
WITH_FILES = ["-f", "srt", "-o", "out"]


@pytest.mark.parametrize(
    ("break_stdout", "status", "said"),
    [
        (FULL.format(1), 1, "error: Standard output cannot be written (No space left on device)"),
        (CLOSED.format(1, "stdout"), 1, "error: Standard output cannot be written (Bad file descriptor)"),
        (BROKEN.format(1), 0, ""),
    ],
    ids=["full", "closed", "broken"],
)
def test_standard_output_that_takes_nothing(sounds, break_stdout, status, said):
    before = pretended.installing() + break_stdout + TAKE_OVER
    outcome = run_limited(["transcribe", "any", "good.flac", "good2.flac", *WITH_FILES], cwd=sounds, before=before)
    assert outcome.status == status
    assert outcome.stderr.startswith(said) and outcome.stderr.count("\n") == (said != "")
    assert files() == ["good.srt", "good2.srt"]
    assert "It will be cold." in Path("out/good2.srt").read_text()


def test_nobody_reads_and_nothing_is_to_be_written(sounds):
    """The work ends with the first line, as if by SIGPIPE: nothing is left to do it for."""
    told = "whisper2max.runtime.model.load(0).heard = (print(n, file=sys.stderr) or f'{n}' for n in range(9))\n"
    before = pretended.installing() + BROKEN.format(1) + TAKE_OVER + "import whisper2max.runtime.model\n" + told
    outcome = run_limited(["transcribe", "any", "good.flac", "good2.flac"], cwd=sounds, before=before)
    assert (outcome.status, outcome.stderr) == (141, "0\n")


@pytest.mark.parametrize("break_stderr", [FULL.format(2), CLOSED.format(2, "stderr"), BROKEN.format(2)])
def test_standard_error_that_takes_nothing(sounds, break_stderr):
    before = pretended.installing() + break_stderr + TAKE_OVER
    command = ["transcribe", "any", "bad.mp3", "good.flac", *WITH_FILES]
    outcome = run_limited(command, cwd=sounds, before=before)
    assert (outcome.status, outcome.stdout, outcome.stderr) == (1, SPOKEN, "")
    assert files() == ["good.srt"]


@pytest.mark.parametrize("arguments", [["cache", "list"], ["--help"], ["transcribe", "-h"], ["--version"]])
@pytest.mark.parametrize(("break_stdout", "status"), [(FULL.format(1), 1), (BROKEN.format(1), 141)])
def test_other_commands_with_nobody_to_read_them(arguments, break_stdout, status):
    outcome = run_limited(arguments, before=break_stdout + TAKE_OVER)
    assert outcome.status == status
    assert outcome.stderr.count("\n") == (status == 1) and "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        (">&-", 1, b"error: Standard output cannot be written"),
        (">/dev/full", 1, b"error: Standard output cannot be written"),
        ("| true", 141, b""),
        ("<&- 2>&-", 0, b""),
        ("<&- >&- 2>&-", 1, b""),
    ],
)
def test_streams_as_a_shell_gives_them(redirection, status, said):
    line = f'"$0" cache list {redirection}; exit ${{PIPESTATUS[0]}}'
    outcome = subprocess.run(["bash", "-c", line, COMMAND], capture_output=True, check=False)
    assert outcome.returncode == status
    assert outcome.stderr.startswith(said) and outcome.stderr.count(b"\n") == (said != b"")


def test_a_transcript_is_not_written_into_by_what_a_closed_stream_let_in(sounds):
    """Where a closed stdout leaves descriptor 1 free, the next file opened would get what native code prints."""
    program = pretended.installing() + (
        "import os; from whisper2max.runtime import writers; whole = writers.render_txt\n"
        "writers.RENDERERS['txt'] = lambda result: os.write(1, b'printed by native code') and whole(result)\n"
        "pretended.cli.main()"
    )
    line = '"$0" -c "$1" transcribe any good.flac -f txt -o out >&- <&-'
    outcome = subprocess.run(["bash", "-c", line, sys.executable, program], capture_output=True, check=False)
    assert outcome.returncode == 1 and b"Bad file descriptor" in outcome.stderr
    assert Path("out/good.txt").read_text() == SPOKEN and Path("good.flac").read_bytes() == SPEECH.read_bytes()


# Signals, memory


@pytest.mark.parametrize(
    ("send", "number", "status"), [(os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_ends_the_work_quietly(sounds, send, number, status):
    """SIGINT as a terminal sends it, to all that run in it; SIGTERM to one process, which ends what it waits for."""
    program = [sys.executable, pretended.__file__, "transcribe", "any", "good.flac", *WITH_FILES]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a shell without job control has what it starts in the background ignore SIGINT, tests too
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(program, start_new_session=True, preexec_fn=heeding, **pipes) as process:
        assert process.stdout.readline() == TEXTS[0].strip() + "\n"
        time.sleep(0.5)
        started = time.monotonic()
        send(process.pid, number)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (status, "")
    assert time.monotonic() - started < 10
    assert files() == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("kib", [60_000, 250_000, 1_000_000, 2_500_000])
@pytest.mark.parametrize("arguments", ["transcribe any good.flac", "convert --size base --random-init 1 --output out"])
def test_a_limit_of_memory_under_which_max_does_not_start(sounds, kib, arguments):
    line = f'ulimit -v {kib}; "$0" {arguments}'
    outcome = subprocess.run(["bash", "-c", line, COMMAND], capture_output=True, text=True, check=False)
    assert outcome.returncode == 2 and outcome.stdout == ""
    assert outcome.stderr.startswith("error: The limit of address space") and outcome.stderr.count("\n") == 1
    assert "ulimit -v" in outcome.stderr and files() == []


def test_a_traceback_is_shown_when_asked_for(sounds, monkeypatch, capsys):
    for arguments in (["--debug", "inspect", "gone"], ["inspect", "gone", "--debug"]):
        monkeypatch.setattr("sys.argv", ["whisper2max", *arguments])
        assert cli.run() == 2
        said = capsys.readouterr().err
        assert said.startswith("Traceback ") and said.splitlines()[-1].startswith("error: gone does not exist")


# Manners


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "--debug"]])
def test_version(command, arguments):
    import whisper2max

    assert command(*arguments) == (0, f"whisper2max {whisper2max.__version__}\n", [])


@pytest.mark.parametrize("of", ["", "convert", "verify", "inspect", "compile", "transcribe", "cache list"])
def test_help(command, of):
    of = of.split()
    status, shown, said = command(*of, "-h")
    assert status == 0 and said == [] and f"Usage: whisper2max {' '.join(of)}".strip() in shown
    assert shown == command(*of, "--help")[1]
    assert "--model" not in shown


def test_no_command_shows_the_help(command):
    assert command() == command("--help")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["convert", "base"], ["`--size base`", "`--checkpoint base`"]),
        (["convert", "--model", "base"], ["`--size base`"]),
        (["convert", "my-org/fine-tune"], ["`--checkpoint my-org/fine-tune`"]),
        (["convert", "--sise", "base"], ["--size"]),
        (["convert", "--dtype", "int9"], ["int9", "int8"]),
        (["convrt"], ["'convert'"]),
        (["cache", "lst"], ["'list'"]),
        (["cache"], ["Missing command", "whisper2max cache -h"]),
        (["transcribe"], ["Missing argument 'ARTIFACT'"]),
        (["transcribe", "artifacts/base"], ["no recording after artifacts/base"]),
        (["transcribe", "good.flac"], ["good.flac is a file", "transcribe artifacts/base good.flac"]),
        (["transcribe", "good.flac", "good2.flac"], ["good.flac is a file", "transcribe artifacts/base good.flac"]),
        (["transcribe", "good.flac", "--model", "base"], ["no --model", "`whisper2max convert --size base`"]),
        (["transcribe", "any", "good.flac", "--output-format", "srt"], ["--output_format"]),
        (["transcribe", "any", "good.flac", "--output_format", "doc"], ["'doc'", "'srt'"]),
        (["transcribe", "any", "good.flac", "--language", "germn"], ["'germn'", "german"]),
        (["transcribe", "any", "good.flac", "--output_dir", "out"], ["--output_format"]),
    ],
)
def test_what_is_meant_is_answered(sounds, command, arguments, parts):
    status, shown, said = command(*arguments)
    assert (status, shown, len(said)) == (2, "", 1) and said[0].startswith("error: ")
    for part in parts:
        assert part in said[0]


def test_options_reach_the_model(sounds, command):
    given = {"language": "auto", "initial_prompt": "\udcff Ada \ud83d", "audio_stream": 1}
    asked = [f"--{name}={value}" for name, value in given.items()]
    command("transcribe", "any", "good.flac", *asked, "--container_times")
    ((_, options),) = command.model.calls
    assert options.items() >= (given | {"container_times": True}).items()
