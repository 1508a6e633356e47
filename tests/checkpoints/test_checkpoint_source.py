"""Which checkpoint is meant, and whether a manifest finds it again."""

from pathlib import Path

import pytest

from whisper2max.checkpoints import choose_source, recorded_source
from whisper2max.core.errors import CheckpointError, UsageError


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"size": "base"}, "base"),
        ({"size": "tiny.en", "random_init": 3}, "tiny.en-random"),
        ({"checkpoint": "openai/whisper-small"}, "whisper-small"),
    ],
)
def test_what_has_a_lasting_name_is_found_again_by_its_record(arguments, name):
    source = choose_source(**arguments)
    assert source.name == name
    assert source.record == arguments
    again = recorded_source({"format": "any", "name": "any", "request": source.record})
    assert (again.name, again.record) == (source.name, source.record)


def test_a_path_and_a_module_are_named_and_not_recorded(tmp_path, toy, monkeypatch):
    (tmp_path / "finetune.pt").touch()
    monkeypatch.chdir(tmp_path)
    given = {"checkpoint": Path("finetune.pt")}, {"checkpoint": "."}, {"module": toy.module}
    found = [choose_source(**arguments) for arguments in given]
    assert [source.name for source in found] == ["finetune", tmp_path.name, "module"]
    assert [source.record for source in found] == [None, None, None]
    with pytest.raises(UsageError, match=r"came from finetune.pt \(openai\), which cannot be found by name"):
        recorded_source({"format": "openai", "name": "finetune.pt", "request": None})


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused_when_it_is_opened(name):
    source = choose_source(checkpoint=name)
    with pytest.raises(CheckpointError, match="does not exist"):
        source.open(None, lambda text: None)


def test_opening_says_what_is_random_and_passes_the_tokenizer_on(toy, tmp_path):
    said = []
    path = tmp_path / "tokenizer.json"
    path.write_bytes(toy.tokenizer_json)
    checkpoint = choose_source(module=toy.module).open(path, said.append)
    assert said == []
    assert checkpoint.generation["origin"]["special_tokens"] == "given by --tokenizer"
    with pytest.raises(UsageError, match="no size 'huge'"):
        choose_source(size="huge", random_init=7).open(None, said.append)
    assert said == ["random weights of seed 7 at the dimensions of huge"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of --size and --checkpoint"),
        ({"size": "base", "checkpoint": "base.pt"}, "exactly one of --size and --checkpoint"),
        ({"checkpoint": "base.pt", "random_init": 0}, "--random-init SEED needs --size"),
    ],
)
def test_arguments_that_name_no_single_checkpoint_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        choose_source(**arguments)
