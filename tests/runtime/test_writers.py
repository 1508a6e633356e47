import json
import os

import pytest
from whisper.utils import get_writer

from whisper2max.core.errors import OutputError, UsageError
from whisper2max.runtime.results import Segment
from whisper2max.runtime.writers import OUTPUT_FORMATS, require_writable, to_result, write

SEGMENTS = [
    Segment(0, 0, 0.0, 2.0, " And so, my fellow Americans,", [50364, 400, 50464], 0.0, -0.25, 1.1, 0.01),
    Segment(1, 0, 2.0, 59.9996, " Grüße\taus --> 東京 \u2028 “x” ", [50464, 7, 51864], 0.0, -0.25, 1.1, 0.01),
    Segment(2, 3000, 3599.9994, 3600.0016, " an hour\n later", [50364, 9, 50365], 0.0, -0.5, 1.3, 1e-12),
    Segment(3, 36000000, 360000.5, 360001.0055, " 100 hours", [50364, 9, 50365], 0.0, -0.5, 1.3, 1e-12),
]


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
@pytest.mark.parametrize("segments", [SEGMENTS, []], ids=["segments", "silence"])
def test_same_bytes_as_openai(tmp_path, output_format, segments):
    result = to_result(segments, "de")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    get_writer(output_format, str(theirs))(result, "some/where/a.talk.mp3", {})
    paths = write(result, "some/where/a.talk.mp3", tmp_path / "ours", output_format)
    assert sorted(path.name for path in paths) == sorted(path.name for path in theirs.iterdir())
    assert sorted(paths) == sorted((tmp_path / "ours").iterdir())
    for path in paths:
        assert path.read_bytes() == (theirs / path.name).read_bytes()


def test_json_has_the_keys_of_openai_in_their_order(tmp_path):
    (path,) = write(to_result(SEGMENTS, "en"), "a.mp3", tmp_path, "json")
    loaded = json.loads(path.read_text())
    assert list(loaded) == ["text", "segments", "language"]
    assert loaded["text"] == "".join(segment.text for segment in SEGMENTS)
    assert list(loaded["segments"][0]) == (
        "id seek start end text tokens temperature avg_logprob compression_ratio no_speech_prob".split()
    )


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(to_result(SEGMENTS, "en"), "a.mp3", tmp_path, "txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_no_language_and_no_segments(tmp_path):
    paths = write(to_result([], None), "a.mp3", tmp_path, "all")
    contents = {path.suffix: path.read_text() for path in paths}
    assert contents.pop(".json") == '{"text": "", "segments": [], "language": null}'
    assert contents == {".txt": "", ".vtt": "WEBVTT\n\n", ".srt": "", ".tsv": "start\tend\ttext\n"}


@pytest.mark.parametrize("stem", ["n" * 251, "\udcff\udcfe", "<b>&amp;", "a\nb\x1b[2J", ".hidden", "a.b."])
def test_any_name_that_a_recording_may_have(tmp_path, stem):
    (path,) = write(to_result(SEGMENTS, "en"), f"some/where/{stem}.mp3", tmp_path, "srt")
    assert os.listdir(tmp_path) == [f"{stem}.srt"] == [path.name]


def test_a_name_that_no_file_system_takes(tmp_path):
    with pytest.raises(UsageError, match="more than 255 bytes; rename the recording"):
        write(to_result([], "en"), f"{'n' * 251}.mp3", tmp_path, "all")
    assert os.listdir(tmp_path) == []


def test_a_file_takes_its_rights_from_the_umask(tmp_path):
    (path,) = write(to_result([], "en"), "a.mp3", tmp_path, "txt")
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_unknown_format(tmp_path):
    with pytest.raises(UsageError, match="'docx' is unknown; expected txt"):
        write(to_result([], "en"), "a.mp3", tmp_path, "docx")


def test_directory_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--output_dir"):
        write(to_result([], "en"), "a.mp3", tmp_path / "file" / "sub", "txt")


def test_directories_are_tried_without_a_trace(tmp_path):
    (tmp_path / "file").touch()
    require_writable(tmp_path)
    require_writable(tmp_path / "a" / "b")
    for wrong in ("file", "file/sub", "n" * 256):
        with pytest.raises(OutputError, match="--report"):
            require_writable(tmp_path / wrong, "--report")
    assert os.listdir(tmp_path) == ["file"]
