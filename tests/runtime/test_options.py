"""Every option stands once; what cannot be is refused by name."""

import dataclasses
import inspect

import pytest

from whisper2max.cli import commands
from whisper2max.core.errors import UsageError
from whisper2max.runtime.options import (
    TRANSCRIPTION_OPTIONS,
    DecodingOptions,
    SpeechOptions,
    TranscriptionOptions,
    transcription_options,
)


def names(options: type) -> set[str]:
    return {each.name for each in dataclasses.fields(options)}


def test_what_holds_for_windows_and_recordings_is_told_to_every_window():
    asked = TranscriptionOptions(
        language="German",
        task="translate",
        prefix=[5],
        suppress_tokens=[7],
        suppress_blank=False,
        begin_suppress_tokens=[9],
        without_timestamps=True,
        max_initial_timestamp=None,
    )
    defaults = SpeechOptions()
    assert all(getattr(asked, name) != getattr(defaults, name) for name in names(SpeechOptions))
    of_window = asked.of_window("de", [1, 2])
    assert of_window.prompt == [1, 2] and of_window.language == "de"
    for name in names(SpeechOptions) - {"language"}:
        assert getattr(of_window, name) == getattr(asked, name)
    # both have more of their own, and nothing of each other's
    assert names(DecodingOptions) & names(TranscriptionOptions) == names(SpeechOptions)


def test_options_are_known_by_their_names():
    assert transcription_options({"batch_size": 4, "task": "translate"}) == TranscriptionOptions(
        batch_size=4, task="translate"
    )
    with pytest.raises(UsageError, match=r"no option langage \(did you mean language.*It has language, task, prefix"):
        transcription_options({"langage": "en"})
    for name in ("beam_size", "best_of", "temperature", "vad_filter", "word_timestamps", "hotwords"):
        with pytest.raises(UsageError, match=f"no option {name}"):
            transcription_options({name: 1})


def test_the_command_line_has_the_defaults_of_the_options():
    parameters = inspect.signature(commands.transcribe).parameters
    offered = set(parameters) & set(TRANSCRIPTION_OPTIONS)
    # ids of tokens are for programs
    of_programs = {"prefix", "suppress_tokens", "suppress_blank", "begin_suppress_tokens", "max_initial_timestamp"}
    assert offered == set(TRANSCRIPTION_OPTIONS) - of_programs
    for name in offered:
        assert parameters[name].default == getattr(TranscriptionOptions(), name), name


def test_the_command_line_hands_every_option_on(monkeypatch):
    from typer.testing import CliRunner

    asked = []
    monkeypatch.setattr("whisper2max.runtime.model.load", lambda *_, **__: None)
    monkeypatch.setattr(
        "whisper2max.cli.transcription.transcribe_recordings",
        lambda model, recordings, options, files, debug: asked.append(options) or 0,
    )
    line = ["transcribe", "artifact", "speech.wav"]
    assert CliRunner().invoke(commands.app, line).exit_code == 0
    line += ["--task", "translate", "--language", "de", "--initial_prompt", "So", "--no_condition_on_previous_text"]
    line += ["--without_timestamps", "--no_speech_threshold", "0.5", "--logprob_threshold", "-2", "--batch_size", "3"]
    line += ["--audio_stream", "1", "--container_times"]
    assert CliRunner().invoke(commands.app, line).exit_code == 0
    plain, changed = map(transcription_options, asked)
    assert plain == TranscriptionOptions()
    assert changed == TranscriptionOptions(
        task="translate",
        language="de",
        initial_prompt="So",
        condition_on_previous_text=False,
        without_timestamps=True,
        no_speech_threshold=0.5,
        log_prob_threshold=-2.0,
        batch_size=3,
        audio_stream=1,
        container_times=True,
    )
    assert asked[1].keys() == set(asked[0]), "every option goes by its name"
