"""The command line, as a user types it: words, exit status, and nothing left behind on errors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from whisper2max.samples import SPEECH

COMMAND = str(Path(sys.executable).with_name("whisper2max"))


def run(*arguments, **environment):
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def assert_one_paragraph(result, status, *parts):
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: ") == 1 and result.stderr.startswith("error: ")
    for part in parts:
        assert part in result.stderr


def test_transcribe_prints_and_writes(tiny_en_artifact, tmp_path):
    result = run("transcribe", tiny_en_artifact.path, SPEECH, "--output_format", "all", "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "weather report" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        f"speech.{suffix}" for suffix in ("txt", "srt", "vtt", "tsv", "json")
    }
    assert "weather report" in (tmp_path / "speech.srt").read_text()


def test_transcribe_in_batches(tiny_en_artifact):
    result = run("transcribe", tiny_en_artifact.path, SPEECH, "--batch_size", "2")
    assert result.returncode == 0, result.stderr
    assert "weather report" in result.stdout


def test_a_batch_of_nothing_is_refused(small_artifact):
    result = run("transcribe", small_artifact.path, SPEECH, "--batch_size", "0")
    assert result.returncode == 2 and "--batch_size" in result.stderr


def test_inspect_artifact(small_artifact):
    facts = json.loads(run("inspect", small_artifact.path, "--json").stdout)
    assert facts["dims"]["n_audio_state"] == 32
    assert facts["graph"].startswith("dims = ModelDimensions(")
    text = run("inspect", small_artifact.path).stdout
    assert "encoder.conv1 = Conv1d(" in text and "weights.safetensors" in text and "parity:" in text


def test_cache_lists_and_clears(tmp_path, small_artifact):
    listed = run("cache", "list").stdout
    assert "encoder" in listed and "step" in listed
    empty = {"WHISPER2MAX_CACHE": str(tmp_path / "cache")}
    assert "0 bytes in 0 graphs" in run("cache", "list", **empty).stdout
    assert "0 bytes freed" in run("cache", "clear", **empty).stdout


def test_verify_without_a_checkpoint_to_compare_with(small_artifact):
    result = run("verify", small_artifact.path)
    assert result.returncode == 2 and "give --checkpoint" in result.stderr


@pytest.mark.parametrize("option", ["--temperature", "--beam_size", "--vad_filter", "--word_timestamps"])
def test_options_that_do_not_exist_are_refused(small_artifact, option):
    result = run("transcribe", small_artifact.path, SPEECH, option, "1")
    assert result.returncode == 2 and "No such option" in result.stderr


def test_a_changed_byte_in_any_file_is_refused(small_artifact, tmp_path):
    copy = tmp_path / "artifact"
    shutil.copytree(small_artifact.path, copy)
    from whisper2max.artifact.artifact import open_artifact
    from whisper2max.core.errors import ArtifactError

    for path in sorted(copy.rglob("*")):
        if path.is_dir():
            continue
        original = path.read_bytes()
        changed = bytearray(original)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ArtifactError):
            open_artifact(copy)
        path.write_bytes(original)
    open_artifact(copy)
    (copy / "model.py").write_text((copy / "model.py").read_text() + "\n")
    assert_one_paragraph(run("transcribe", copy, SPEECH), 2, "model.py")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "empty.wav", "empty"),
        (b"This is no sound.\n" * 50, "text.mp3", "text.mp3"),
        (None, "absent.wav", "absent.wav"),
        (None, "https://example.org/speech.mp3", "is an address"),
    ],
)
def test_unusable_audio(small_artifact, tmp_path, content, name, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    given = path if "://" not in name else name
    assert_one_paragraph(run("transcribe", small_artifact.path, given), 2, message)


def test_zero_seconds_of_audio(small_artifact, tmp_path):
    import wave

    path = tmp_path / "nothing.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
    assert_one_paragraph(run("transcribe", small_artifact.path, path), 2, "nothing.wav")


def test_good_and_bad_recordings(tiny_en_artifact, tmp_path):
    (tmp_path / "bad.mp3").write_bytes(b"This is no sound.\n" * 50)
    shutil.copy(SPEECH, tmp_path / "other.flac")
    recordings = [SPEECH, tmp_path / "bad.mp3", tmp_path / "missing.wav", tmp_path / "other.flac"]
    out = tmp_path / "out"
    result = run("transcribe", tiny_en_artifact.path, *recordings, "--output_format", "txt", "--output_dir", out)
    assert result.returncode == 1
    assert result.stdout.count("weather report") == 2
    assert sorted(os.listdir(out)) == ["other.txt", "speech.txt"]
    assert (out / "other.txt").read_text() == (out / "speech.txt").read_text()
    bad, missing, last = result.stderr.splitlines()
    assert "bad.mp3" in bad and "missing.wav does not exist" in missing and last.startswith("2 of 4 ")


def test_standard_input(tiny_en_artifact, tmp_path):
    with SPEECH.open("rb") as stream:
        whole = subprocess.run([COMMAND, "transcribe", tiny_en_artifact.path, "-"], stdin=stream, capture_output=True)
    command = f'cat "{SPEECH}" | "{COMMAND}" transcribe "{tiny_en_artifact.path}" - --output_format json'
    piped = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True)
    assert whole.returncode == piped.returncode == 0
    assert b"weather report" in whole.stdout and whole.stdout == piped.stdout
    assert os.listdir(tmp_path) == ["stdin.json"]


def test_a_language_as_people_write_it_and_a_prompt_that_is_not_unicode(tiny_en_artifact):
    options = ["--language", "en-US", "--initial_prompt", b"\xff\xfe Names: Ada. Half an emoji: \xed\xa0\xbd"]
    command = [COMMAND, "transcribe", str(tiny_en_artifact.path), str(SPEECH), *options]
    result = subprocess.run(command, capture_output=True)
    assert result.returncode == 0 and result.stderr == b""
    assert b"weather report" in result.stdout


def test_names_in_any_bytes(small_artifact, tmp_path):
    stems = [b"n" * 251, b"\xff\xfe<b>"]
    recordings = [os.path.join(os.fsencode(tmp_path), stem + b".wav") for stem in stems]
    for recording in recordings:
        shutil.copy(SPEECH, recording)
    out = os.path.join(os.fsencode(tmp_path), b"\xffout")
    command = [COMMAND, "transcribe", str(small_artifact.path), *recordings, "-f", "srt", "-o", out]
    result = subprocess.run(command, capture_output=True)
    assert result.returncode == 0 and result.stderr == b""
    assert sorted(os.listdir(out)) == [stem + b".srt" for stem in stems]


@pytest.mark.parametrize(("redirection", "status"), [("| head -1", 0), ("> /dev/full", 1), (">&-", 1), ("2>&-", 0)])
def test_files_are_written_whoever_reads(tiny_en_artifact, tmp_path, redirection, status):
    command = f'"{COMMAND}" transcribe "{tiny_en_artifact.path}" "{SPEECH}" --output_format txt {redirection}'
    script = f"{command}; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == status
    assert result.stderr.count("\n") == status and "Traceback" not in result.stderr
    assert "weather report" in (tmp_path / "speech.txt").read_text()


def test_inspect_in_an_encoding_without_the_letters(small_artifact, tmp_path):
    for encoding in ("ascii", "latin-1"):
        facts = run("inspect", small_artifact.path, "--json", PYTHONIOENCODING=encoding).stdout
        assert facts.isascii() and json.loads(facts)["kind"] == "artifact"
