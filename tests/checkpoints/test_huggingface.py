"""Hugging Face directories, whole, sharded and damaged."""

import json
import re

import pytest
import torch

from whisper2max.checkpoints import open_checkpoint
from whisper2max.core.errors import CheckpointError, TokenizerError

CONV = "model.encoder.conv1.weight"
FC1 = "model.encoder.layers.2.fc1.weight"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 290403936\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pickle", [False, True], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_directory_opens(toy, write, same_weights, dtype, pickle, shards):
    checkpoint = open_checkpoint(write.huggingface(toy, dtype, pickle=pickle, shards=shards))
    same_weights(toy, checkpoint, dtype)
    assert checkpoint.source["format"] == "huggingface"
    assert checkpoint.source["name"] == "toy-huggingface"
    assert checkpoint.source["stored_dtype"] == str(dtype).removeprefix("torch.")
    assert re.fullmatch("[0-9a-f]{64}", checkpoint.source["sha256"])
    assert checkpoint.tokenizer_json == (write.folder / "toy-huggingface/tokenizer.json").read_bytes()


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("projection", [False, True])
def test_either_naming_opens_with_and_without_projection(toy, write, same_weights, prefix, projection):
    checkpoint = open_checkpoint(str(write.huggingface(toy, prefix=prefix, projection=projection)))
    same_weights(toy, checkpoint)
    decoder = checkpoint.module.model.decoder
    assert checkpoint.module.proj_out.weight is decoder.embed_tokens.weight


def test_what_transformers_saves_opens_and_says_where_settings_came_from(toy, write, same_weights, tmp_path):
    toy.module.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved/tokenizer.json").write_bytes(toy.tokenizer_json)
    settings = json.loads((tmp_path / "saved/generation_config.json").read_text())
    settings |= {"alignment_heads": [[0, 1], [1, 3]], "suppress_tokens": [7, 8]}
    (tmp_path / "saved/generation_config.json").write_text(json.dumps(settings))
    checkpoint = open_checkpoint(tmp_path / "saved")
    same_weights(toy, checkpoint)
    assert checkpoint.generation["suppress_tokens"] == [7, 8]
    assert checkpoint.generation["alignment_heads"] == [[0, 1], [1, 3]]
    assert checkpoint.generation["origin"]["suppress_tokens"] == "generation_config.json"


def test_all_faults_are_listed_in_one_error(toy, write):
    state = {
        CONV: None,
        FC1: toy.module.state_dict()[FC1].T.contiguous(),
        "model.encoder.adapter.weight": torch.zeros(3),
        "model.decoder.layer_norm.bias": torch.full((16,), float("nan")),
        "model.decoder.layer_norm.weight": torch.full((16,), float("inf")),
        "model.encoder.conv2.bias": torch.zeros(16, dtype=torch.int64),
    }
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(write.huggingface(toy, state=state))
    message = str(caught.value)
    for expected in (
        "6 tensors are not what",
        f"{CONV}: missing, expected shape [16, 80, 3]",
        f"{FC1}: shape [16, 64] (transposed), expected [64, 16]",
        "model.encoder.adapter.weight: belongs to no part",
        "model.decoder.layer_norm.bias: holds NaN",
        "model.decoder.layer_norm.weight: holds infinity",
        "model.encoder.conv2.bias: type int64, expected float32",
        "get it again",
    ):
        assert expected in message


def test_parts_of_its_own_are_not_called_damage(toy, write):
    with pytest.raises(CheckpointError, match="adapter.weight: belongs to no part.*All of a Whisper is there and more"):
        open_checkpoint(write.huggingface(toy, state={"model.encoder.adapter.weight": torch.zeros(3)}))


def test_a_projection_of_its_own_is_refused(toy, write):
    state = {"proj_out.weight": torch.zeros(toy.dims.n_vocab, 16)}
    with pytest.raises(
        CheckpointError, match="proj_out.weight differs from model.decoder.embed_tokens.weight.*of its own"
    ):
        open_checkpoint(write.huggingface(toy, state=state))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "wav2vec2"}, "model_type is 'wav2vec2', expected 'whisper'"),
        ({"model_type": None}, "model_type is None"),
        ({"num_mel_bins": None, "d_model": None}, "lacks d_model, num_mel_bins"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"encoder_ffn_dim": 48}, "encoder_ffn_dim is 48"),
        ({"d_model": 15}, "n_audio_state 15 is not a multiple"),
    ],
)
def test_a_configuration_of_another_model_is_refused(toy, write, config, message):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(write.huggingface(toy, config=config))


def test_mel_channels_that_disagree_are_refused(toy, write):
    files = {"preprocessor_config.json": {"feature_size": 128}}
    with pytest.raises(CheckpointError, match="conv1 has 80 mel channels.*preprocessor_config.json says 128"):
        open_checkpoint(write.huggingface(toy, files=files))


def test_another_spectrogram_is_refused(toy, write):
    files = {"preprocessor_config.json": {"feature_size": 80, "hop_length": 320}}
    with pytest.raises(CheckpointError, match="hop_length is 320"):
        open_checkpoint(write.huggingface(toy, files=files))


def test_an_adapter_without_its_base_is_refused(tmp_path):
    adapter = {"base_model_name_or_path": "openai/whisper-small", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(
        CheckpointError, match="LoRA adapter without its base.*openai/whisper-small.*merge_and_unload"
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS_POINTER, "git-LFS pointer.*git lfs pull"),
        ("<!DOCTYPE html><html><title>Sign in</title>", "HTML page.*again"),
        ("", "is empty"),
    ],
    ids=["lfs", "html", "empty"],
)
def test_what_stands_in_for_a_file_is_recognised(toy, write, name, content, message):
    path = write.huggingface(toy)
    (path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert str(path / name) in str(caught.value)


@pytest.mark.parametrize("kept", [0.5, 0.0001])
def test_truncated_safetensors_are_refused(toy, write, kept):
    path = write.huggingface(toy) / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file.*download it again"):
        open_checkpoint(path.parent)


def test_a_truncated_pickle_is_refused(toy, write):
    path = write.huggingface(toy, pickle=True) / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="pytorch_model.bin cannot be read: it is truncated"):
        open_checkpoint(path.parent)


def test_a_damaged_config_is_named(toy, write):
    path = write.huggingface(toy, files={"config.json": '{"model_type": '})
    with pytest.raises(CheckpointError, match="config.json is not valid JSON"):
        open_checkpoint(path)


def test_missing_shards_and_weights_are_named(toy, write):
    path = write.huggingface(toy, shards=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks the shards model-00002-of-00003.safetensors"):
        open_checkpoint(path)
    (path / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match="no weights: expected model.safetensors"):
        open_checkpoint(path)


def test_an_index_that_disagrees_with_its_shards_is_refused(toy, write):
    path = write.huggingface(toy, shards=2) / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][CONV] = "model-00002-of-00002.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"disagree about {CONV}"):
        open_checkpoint(path.parent)


def test_an_index_that_points_outside_is_refused(toy, write):
    path = write.huggingface(toy, shards=2) / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {CONV: "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="shards lie in the directory itself"):
        open_checkpoint(path.parent)


def test_a_tokenizer_of_another_model_is_refused(toy, write):
    tokenizer = json.loads(toy.tokenizer_json)
    del tokenizer["added_tokens"][50]
    with pytest.raises(TokenizerError, match="--tokenizer"):
        open_checkpoint(write.huggingface(toy, files={"tokenizer.json": tokenizer}))


def test_a_vocabulary_of_its_own_is_not_replaced_by_a_known_tokenizer(toy, write):
    vocabulary = json.loads(toy.tokenizer_json)["model"]["vocab"]
    path = write.huggingface(toy, tokenizer=False, files={"vocab.json": vocabulary})
    assert "tiktoken" in open_checkpoint(path).generation["origin"]["special_tokens"]
    first, second = [text for text, token in vocabulary.items() if token in (400, 401)]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(TokenizerError, match="vocab.json has .* at the id 40.*--tokenizer"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"suppress_tokens": [-1, 51863]},
            CheckpointError,
            "suppress_tokens must be a list of token ids from 0",
        ),
        ({"suppress_tokens": list(range(51864))}, CheckpointError, "hold all text, so nothing could ever be said"),
        ({"suppress_tokens": list(range(50363, 50420))}, CheckpointError, "hold every timestamp that a transcript"),
        ({"max_initial_timestamp_index": "50"}, CheckpointError, "must be from 0 to 1500, but is 50"),
        ({"begin_suppress_tokens": "220"}, CheckpointError, "begin_suppress_tokens must be"),
        ({"lang_to_id": {"<|en|>": [1]}}, CheckpointError, "must give each language a token id"),
        ({"no_timestamps_token_id": 50363}, TokenizerError, "50362, generation_config.json says 50363"),
        ({"lang_to_id": {"<|de|>": 50261}}, TokenizerError, r"<\|de\|> is 50260, .* says 50261"),
    ],
)
def test_generation_settings_that_do_not_fit_are_refused(toy, write, settings, error, message):
    with pytest.raises(error, match=message):
        open_checkpoint(write.huggingface(toy, files={"generation_config.json": settings}))
