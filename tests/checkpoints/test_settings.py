"""What the files of a checkpoint state about decoding: heeded, or told."""

import json

import pytest
import torch

from whisper2max import conversion
from whisper2max.artifact.generation_schema import check_generation
from whisper2max.checkpoints import open_checkpoint

OLD_LIST = [1, 2, 7]


def opened(write, toy, settings=None, config=None, **others):
    files = {} if settings is None else {"generation_config.json": settings}
    return open_checkpoint(write.huggingface(toy, config=config, files={**files, **others}))


def test_a_stated_setting_is_in_generation_json(toy, write):
    stated = {
        "suppress_tokens": [7, 8],
        "begin_suppress_tokens": [9],
        "max_initial_timestamp_index": 25,
        "alignment_heads": [[0, 1], [1, 3], [0, 1]],
    }
    checkpoint = opened(write, toy, stated)
    generation = checkpoint.generation
    check_generation(generation, toy.dims)
    assert generation["suppress_tokens"] == [7, 8]
    assert generation["begin_suppress_tokens"] == [9]
    assert generation["max_initial_timestamp"] == 0.5
    assert generation["alignment_heads"] == [[0, 1], [1, 3]]
    ours = {"suppress_tokens", "begin_suppress_tokens", "max_initial_timestamp", "alignment_heads"}
    assert {generation["origin"][name] for name in ours} == {"generation_config.json"}
    assert checkpoint.notes == ()
    assert checkpoint.module.generation_config.max_initial_timestamp_index == 25


def test_what_openai_whisper_does_anyway_is_not_repeated(toy, write):
    checkpoint = opened(write, toy, {"max_initial_timestamp_index": 50})
    assert "max_initial_timestamp" not in checkpoint.generation
    assert checkpoint.generation == {**toy.generation, "origin": checkpoint.generation["origin"]}


def test_an_old_config_states_them_too(toy, write):
    config = {"suppress_tokens": OLD_LIST, "begin_suppress_tokens": [220, 50256], "forced_decoder_ids": [[1, 50362]]}
    checkpoint = opened(write, toy, config=config)
    assert checkpoint.generation["suppress_tokens"] == OLD_LIST
    assert checkpoint.generation["origin"]["suppress_tokens"] == "config.json"
    assert "derived" in checkpoint.generation["origin"]["begin_suppress_tokens"]
    (note,) = checkpoint.notes
    assert "config.json forces no timestamps (forced_decoder_ids), which is not taken over" in note


def test_generation_config_goes_before_config(toy, write):
    checkpoint = opened(
        write, toy, {"begin_suppress_tokens": [9]}, {"suppress_tokens": OLD_LIST, "forced_decoder_ids": [[1, 50257]]}
    )
    assert checkpoint.generation["suppress_tokens"] == OLD_LIST
    assert checkpoint.generation["begin_suppress_tokens"] == [9]
    assert checkpoint.notes == ()


def test_ctranslate2_states_them_in_either_file(toy, write):
    path = write.ctranslate2(toy, torch.float16, config={"suppress_ids": [5]})
    (path / "generation_config.json").write_text(json.dumps({"suppress_tokens": [6], "begin_suppress_tokens": [9]}))
    checkpoint = open_checkpoint(path)
    assert checkpoint.generation["suppress_tokens"] == [5]
    assert checkpoint.generation["begin_suppress_tokens"] == [9]
    assert checkpoint.notes == (
        "generation_config.json states another suppress_tokens than CTranslate2's config.json, which goes first",
    )


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"language": "hi", "task": "translate"}, "states language hi, task translate, which is not taken over"),
        ({"language": "<|hi|>", "task": "transcribe"}, r"states language <|hi|>, which is not taken over"),
        ({"no_speech_threshold": 0.1}, "states no_speech_threshold 0.1, which is not taken over"),
        ({"bad_words_ids": [[1]]}, "states bad_words_ids a list of 1, which is not taken over"),
        ({"decoder_start_token_id": 7}, "states decoder_start_token_id 7, the tokenizer 50257, which is used"),
        ({"eos_token_id": [50256, 7]}, "states eos_token_id [50256, 7], the tokenizer 50256, which is used"),
        ({"is_multilingual": True}, "states is_multilingual True, the vocabulary is English-only"),
        ({"forced_decoder_ids": [[1, 50357]]}, "forces the task translate (forced_decoder_ids)"),
        ({"forced_decoder_ids": "nonsense"}, "forces nonsense (forced_decoder_ids)"),
        ({"max_initial_timestamp_index": 0}, "a max_initial_timestamp_index of 0, for which the usual 50 is taken"),
        ({"suppress_tokens": [1, 51864, 2**40]}, "suppress_tokens holds [51864, 1099511627776], beyond the vocabulary"),
        ({"begin_suppress_tokens": [51864]}, "begin_suppress_tokens holds [51864], beyond the vocabulary of 51864"),
        ({"alignment_heads": "all"}, "alignment_heads are not pairs of a layer below 2 and a head below 4"),
        ({"alignment_heads": [[2, 0]]}, "alignment_heads are not pairs of a layer below 2 and a head below 4"),
        ({"alignment_heads": [[0.5, 0]]}, "they are left out, and no transcript needs them"),
    ],
)
def test_what_is_not_taken_over_is_told(toy, write, settings, note):
    checkpoint = opened(write, toy, settings)
    assert note in " ".join(checkpoint.notes)
    check_generation(checkpoint.generation, toy.dims)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "num_beams": 1, "do_sample": False, "language": None, "task": "transcribe"},
        {"forced_decoder_ids": [[1, None], [2, 50358]], "is_multilingual": False, "max_length": 448},
        {"decoder_start_token_id": 50257, "eos_token_id": [50256], "transformers_version": "4.31.0", "unknown": {}},
    ],
)
def test_what_changes_nothing_is_not_spoken_of(toy, write, settings):
    assert opened(write, toy, settings).notes == ()


def test_a_note_writes_nothing_to_the_terminal(toy, write):
    (note,) = opened(write, toy, {"language": "\x1b[2J"}).notes
    assert "\\x1b[2J" in note and note.isprintable()


def test_a_window_of_another_length_and_dither_are_told(toy, write):
    settings = {"feature_size": 80, "chunk_length": 30, "dither": 0.1}
    first, second = opened(write, toy, **{"preprocessor_config.json": settings}).notes
    assert "states windows of 30 s; the encoder's 20 positions are 0.4 s, which is taken" in first
    assert "states a dither of 0.1, and none is added" in second


def test_other_language_ids_and_an_adapter_that_is_not_merged_are_told(toy, write, tmp_path):
    (note,) = open_checkpoint(write.ctranslate2(toy, config={"lang_ids": [9]})).notes
    assert "states other lang_ids than the tokenizer" in note
    (note,) = opened(write, toy, **{"adapter_config.json": {"peft_type": "LORA"}}).notes
    assert "holds a LoRA adapter beside whole weights, which are taken without it" in note


def test_convert_says_the_notes(toy, write, tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def stop(*arguments):
        raise Enough

    monkeypatch.setattr(conversion, "write_sources", stop)
    path, said = write.huggingface(toy, files={"generation_config.json": {"language": "hi"}}), []
    with pytest.raises(Enough):
        conversion.convert(checkpoint=path, output=tmp_path / "artifact", say=said.append)
    assert any(line.startswith("note: generation_config.json states language hi") for line in said)
