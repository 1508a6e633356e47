"""Checkpoints are data: they open or are refused in one paragraph, within limits, and nothing in them runs."""

import json
import os
import re
import struct

import pytest
import torch
from crafted_checkpoints import (
    DEEP,
    EMBEDDING,
    ESCAPE,
    TOY,
    Bench,
    RunsCode,
    former_tokenizer,
    grown_tokenizer,
    laughs,
    pickled,
    prefixed,
    raw_model,
    toy_checkpoint,
    with_rows,
    without,
    zero_device,
    zip_bomb,
)
from limits import Outcome, assert_refused, run_limited
from transformers import WhisperConfig, WhisperForAudioClassification

NAN, INFINITY = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
ZERO = b"\0" * 4
SCALAR: tuple[int, ...] = ()
NOT_REGULAR = "is not a regular file, and nothing else is read"
NO_BPE = "not a byte-level BPE tokenizer.json"
NO_SAFETENSORS = r"model.safetensors \(\d+ bytes\) is truncated or not a safetensors file"


@pytest.fixture(scope="module")
def toy():
    return toy_checkpoint()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def bench(toy, shared, tmp_path) -> Bench:
    (tmp_path / "crafted").mkdir()
    return Bench(toy, tmp_path / "crafted", shared)


@pytest.fixture
def inspect(tmp_path):
    """Runs `inspect`, which opens a checkpoint and walks it, under limits and in an empty directory."""
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(path, *options: str) -> Outcome:
        outcome = run_limited(["inspect", path, *options], cwd=folder)
        assert list(folder.iterdir()) == [], "the checkpoint ran code"
        return outcome

    return run


def in_config(**changes):
    return lambda bench: bench.huggingface(config=changes)


def in_settings(content: object):
    return lambda bench: bench.huggingface({"generation_config.json": content})


def in_tokenizer(change, **config):
    return lambda bench: bench.with_tokenizer(change, config)


def in_file(name: str, content: object):
    return lambda bench: bench.huggingface({name: content})


def in_index(weight_map: object, file: str = "model.safetensors"):
    return lambda bench: bench.huggingface({file: None, f"{file}.index.json": {"weight_map": weight_map}})


def in_model(*variables, **other):
    return lambda bench: bench.ctranslate2(raw_model(variables, **other))


def splits_by(pattern: str):
    def change(document: dict) -> None:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, document["pre_tokenizer"]]}

    return change


def only_a_space(n_vocab: int):
    """A vocabulary of one token of text, whose special tokens end where `n_vocab` says."""

    def change(document: dict) -> None:
        first = n_vocab - 1501 - len(document["added_tokens"])
        document["model"] |= {"vocab": {"Ġ": 0}, "merges": []}
        for index, token in enumerate(document["added_tokens"]):
            token["id"] = first + index

    return change


def first_added_token_is_a_list(document: dict) -> None:
    document["added_tokens"][0]["content"] = ["x"]


def heads(value: bytes):
    tables = ("encoder/conv1/weight", (1, 1, 1)), ("encoder/position_encodings/encodings", (1, 1))
    tables += ("decoder/embeddings/weight", (1, 1)), ("decoder/position_encodings/encodings", (1, 1))
    variables = [(name, shape, 0, ZERO) for name, shape in tables]
    return in_model(*variables, *((f"{side}/num_heads", SCALAR, 0, value) for side in ("encoder", "decoder")))


def expanded(bench: Bench):
    one_row = torch.zeros(1, TOY.n_audio_state).expand(60_000, -1)
    return bench.whisper_pt({"n_audio_ctx": 60_000}, {"encoder.positional_embedding": one_row})


def one_tensor_many_times(bench: Bench):
    names = [f"{side}.blocks.{index}.mlp.0.weight" for side in ("encoder", "decoder") for index in range(60)]
    same = torch.zeros(4 * TOY.n_audio_state, TOY.n_audio_state).half()
    small = {name: tensor for name, tensor in bench.openai_state.items() if "token_embedding" not in name}
    return bench.pt({"dims": TOY.to_dict(), "model_state_dict": {**small, **dict.fromkeys(names, same)}})


def quantised(bench: Bench):
    name = "model.encoder.layers.0.fc1.weight"
    state = {**bench.state, name: torch.zeros(256, 64, dtype=torch.int8), f"{name[:-7]}.SCB": torch.ones(256)}
    return bench.huggingface(state=state, config={"quantization_config": {"quant_method": "bitsandbytes"}})


def classifier(bench: Bench):
    sizes = {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 1, "encoder_ffn_dim": 256}
    model = WhisperForAudioClassification(WhisperConfig(max_source_positions=20, **sizes))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return bench.huggingface(state=state, config={"architectures": ["WhisperForAudioClassification"]})


def mlx(bench: Bench):
    def is_weights(path):
        path.write_bytes(bytes(64))

    flat = {**TOY.to_dict(), "model_type": "whisper"}
    return bench.huggingface({"config.json": flat, "model.safetensors": None, "weights.safetensors": is_weights})


def single_safetensors(bench: Bench):
    path = bench.huggingface() / "model.safetensors"
    return path.resolve()


def truncated(bench: Bench):
    path = bench.whisper_pt()
    os.truncate(path, 1_000_000)
    return path


def cloned(state):
    return {name: tensor.clone() for name, tensor in state.items()}


def code_in_weights(path):
    torch.save({"a": RunsCode()}, path)


def protocol_0(bench: Bench):
    path = bench.folder / "model.pt"
    path.write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR.")
    return path


def link_to_zeros(bench: Bench):
    zero_device(bench.folder / "model.pt")
    return bench.folder / "model.pt"


def fifo(bench: Bench):
    os.mkfifo(bench.folder / "model.pt")
    return bench.folder / "model.pt"


# What makes each, and what its message says.
REFUSED = {
    # pickles
    "code in dims": (lambda b: b.pt({"dims": RunsCode(), "model_state_dict": {}}), r"\(posix.system\).*not safe"),
    "code in the former layout": (
        lambda b: b.pt({"dims": RunsCode()}, _use_new_zipfile_serialization=False),
        r"\(posix.system\).*not safe",
    ),
    "a pickle with code": (lambda b: pickled(b.folder / "model.pt", RunsCode()), r"\(posix.system\).*not safe"),
    "code of protocol 0": (protocol_0, r"\(os.system\).*not safe"),
    "code in pytorch_model.bin": (
        lambda b: b.huggingface({"model.safetensors": None, "pytorch_model.bin": code_in_weights}),
        r"\(posix.system\).*not safe",
    ),
    "nested references": (lambda b: b.pt({"dims": laughs(), "model_state_dict": {}}), "dims .* is a list of 10"),
    "nested references in a dimension": (lambda b: b.whisper_pt({"n_mels": laughs()}), "n_mels is a list of 10"),
    "nested references in the state": (lambda b: b.whisper_pt(state={"epoch": laughs()}), "epoch .*not tensors"),
    "zip bomb": (lambda b: zip_bomb(b.folder / "model.pt", 3 << 30), "compressed or encrypted"),
    "sparse tensor": (lambda b: b.whisper_pt(state={"a": torch.zeros(3).to_sparse()}), "_rebuild_sparse_tensor"),
    "expanded tensor": (expanded, r"shape \[60000, 64\] does not lie in its"),
    "one tensor under many names": (one_tensor_many_times, "would take .* many times the"),
    "huge dims": (lambda b: b.whisper_pt(dict.fromkeys(TOY.to_dict(), 10**18)), "model.pt: n_mels is above"),
    "huge n_audio_ctx": (lambda b: b.whisper_pt({"n_audio_ctx": 10**18}), "model.pt: n_audio_ctx is above"),
    "many layers": (lambda b: b.whisper_pt({"n_audio_layer": 1024, "n_text_layer": 1024}), "missing, expected.* more"),
    "no tensors": (lambda b: b.pt({"dims": TOY.to_dict(), "model_state_dict": {}}), "none of its 0 tensors"),
    "dims that are tensors": (lambda b: b.whisper_pt({"n_mels": torch.tensor(80)}), "n_mels is a tensor"),
    "a name with escapes": (lambda b: b.whisper_pt(state={ESCAPE: torch.zeros(1)}), r"\\x1b\[2J.*belongs to no part"),
    "truncated": (truncated, "truncated or not a file that torch.save wrote"),
    "a lost storage": (lambda b: without(b.whisper_pt(), "data/0"), "does not lie in its 0 bytes"),
    "a FIFO": (fifo, NOT_REGULAR),
    "an endless file": (link_to_zeros, NOT_REGULAR),
    # JSON
    "deep config.json": (in_file("config.json", DEEP), "config.json is not usable JSON: it is nested too deeply"),
    "nested config.json": (in_config(a=json.loads("[" * 400 + "]" * 400)), "config.json .*nested too deeply"),
    "deep generation_config.json": (in_settings(DEEP), "generation_config.json .*nested too deeply"),
    "deep tokenizer.json": (in_file("tokenizer.json", DEEP), "tokenizer.json .*nested too deeply"),
    "deep preprocessor_config.json": (in_file("preprocessor_config.json", DEEP), "nested too deeply"),
    "deep index": (
        lambda b: b.huggingface({"model.safetensors": None, "model.safetensors.index.json": DEEP}),
        "nested too deeply",
    ),
    "deep header": (lambda b: b.safetensors(DEEP.encode()), "header .*nested too deeply"),
    "many equal keys": (in_file("config.json", "{" + '"a": 1, ' * 100_000 + '"a": 1}'), "duplicate key 'a'"),
    "numbers that are none": (in_file("config.json", '{"model_type": NaN}'), "not a finite number"),
    "dims as text": (in_config(d_model="64"), "config.json: n_audio_state is '64'"),
    "a vocabulary of three billion": (in_tokenizer(only_a_space(3 * 10**9), vocab_size=3 * 10**9), "n_vocab is above"),
    "a vocabulary of a million": (in_tokenizer(only_a_space(10**6), vocab_size=10**6), "no token has the id 1"),
    "special tokens of three billion": (in_tokenizer(only_a_space(3 * 10**9)), "not a byte-level BPE"),
    # tokenizers
    "token content a list": (in_tokenizer(first_added_token_is_a_list), NO_BPE),
    "a regular expression that nests": (in_tokenizer(splits_by("(((((.{1,900}){1,900}){1,900}){1,900})+)+$")), NO_BPE),
    "a regular expression that takes forever": (in_tokenizer(splits_by("(?:(?:[^z]|[^y])+)+Q$")), NO_BPE),
    # settings
    "odd language ids": (
        in_settings({"lang_to_id": {"<|en|>": [1]}, "suppress_tokens": [-1]}),
        "lang_to_id must give each language a token id",
    ),
    "everything suppressed": (in_settings({"suppress_tokens": list(range(51865))}), "nothing could ever be said"),
    "odd list": (in_settings({"begin_suppress_tokens": {"a": 1}}), "begin_suppress_tokens must be a list"),
    # shards and safetensors
    "a shard above": (in_index({"a": ".."}), r"names \.\.; shards lie in the directory itself"),
    "a shard elsewhere": (in_index({"a": "/etc/passwd"}), "names /etc/passwd; shards lie in the directory itself"),
    "a shard of another kind": (in_index({"a": "config.json"}), "names config.json; shards"),
    "a shard with a zero": (in_index({"a": "a\0.safetensors"}), "shards lie in the directory itself"),
    "a shard that is a list": (in_index({"a": [["b"]]}), "shards lie in the directory itself"),
    "overlapping tensors": (
        lambda b: b.safetensors(dict.fromkeys("ab", {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}), ZERO),
        NO_SAFETENSORS,
    ),
    "a negative offset": (
        lambda b: b.safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, ZERO),
        NO_SAFETENSORS,
    ),
    "a huge offset": (
        lambda b: b.safetensors({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64 - 1]}}, ZERO),
        NO_SAFETENSORS,
    ),
    "an overflowing shape": (
        lambda b: b.safetensors({"a": {"dtype": "F32", "shape": [2**32] * 3, "data_offsets": [0, 0]}}),
        NO_SAFETENSORS,
    ),
    "a header of other JSON": (lambda b: b.safetensors([1, 2]), "expected an object"),
    "a header longer than the file": (in_file("model.safetensors", b"\xff" * 64), NO_SAFETENSORS),
    "safetensors that are endless": (in_file("model.safetensors", zero_device), NOT_REGULAR),
    "safetensors that are a FIFO": (in_file("model.safetensors", os.mkfifo), NOT_REGULAR),
    "safetensors that are a directory": (in_file("model.safetensors", os.mkdir), NOT_REGULAR),
    "a config that is a FIFO": (in_file("config.json", os.mkfifo), NOT_REGULAR),
    "a tokenizer that is endless": (in_file("tokenizer.json", zero_device), NOT_REGULAR),
    "settings that are endless": (in_file("generation_config.json", zero_device), NOT_REGULAR),
    "a preprocessor that leads nowhere": (in_file("preprocessor_config.json", lambda p: p.symlink_to("no")), "opened"),
    # CTranslate2
    "a huge count": (in_model(n_variables=2**32 - 1), "claims 4,294,967,295 variables"),
    "a shape of 2^64": (in_model(("a", (2**31, 2**31, 4), 0, b"")), "has 0 bytes, expected 73786976294838206464"),
    "a shape of 2^63": (in_model(("a", (2**31, 2**31, 2), 0, b"")), "has 0 bytes, expected 36893488147419103232"),
    "255 axes": (in_model(("a", (1,) * 255, 0, ZERO)), "has 255 axes"),
    "no values": (in_model(("a", (0,), 0, b"")), "has 0 bytes"),
    "heads that are NaN": (heads(NAN), "num_heads: is nan, expected a whole number"),
    "heads that are infinite": (heads(INFINITY), "num_heads: is inf, expected a whole number"),
    "many aliases": (
        in_model(("a", (5 << 20,), 0, bytes(20 << 20)), aliases=[(f"b{index}", "a") for index in range(2000)]),
        "aliases stand for 41,964,011,520 bytes",
    ),
    "an alias with escapes": (in_model(aliases=[(ESCAPE.replace("\x07", ""), "a")]), r"alias .*\\x1b\[2J"),
    "integers": (in_model(("a", (4,), 1, ZERO)), "quantised: a are int8"),
    "a vocabulary that is a FIFO": (lambda b: b.ctranslate2(files={"vocabulary.txt": os.mkfifo}), NOT_REGULAR),
    "an endless vocabulary": (lambda b: b.ctranslate2(files={"vocabulary.txt": zero_device}), NOT_REGULAR),
    "a model.bin that is endless": (
        lambda b: (zero_device(b.folder / "model.bin"), b.folder)[1],
        NOT_REGULAR,
    ),
    # of users
    "a projection of its own": (
        lambda b: b.huggingface(state={**b.state, "proj_out.weight": b.state[EMBEDDING] + 1}),
        "proj_out.weight differs from .*output projection of its own",
    ),
    "tokens added to the tokenizer alone": (
        lambda b: b.huggingface({"tokenizer.json": grown_tokenizer(b)}),
        r"more tokens than the model's embedding of 51865 rows: 'Zyvox' \(51865\), '<\|speaker\|>' \(51866\)",
    ),
    "bitsandbytes": (quantised, r"is quantised by bitsandbytes \(.*fc1.weight"),
    "an audio classifier": (classifier, "audio classifier on Whisper's encoder.*no decoder"),
    "the encoder alone": (
        lambda b: b.huggingface(state={name: t for name, t in b.state.items() if ".encoder." in name}),
        "holds the encoder of a Whisper alone",
    ),
    "LoRA that is not merged": (
        lambda b: b.huggingface(state={**b.state, "model.encoder.layers.0.fc1.lora_A.weight": torch.zeros(2)}),
        "LoRA adapter.*merge_and_unload",
    ),
    "MLX": (mlx, "is a model for MLX"),
    "two prefixes": (
        lambda b: b.huggingface(state=prefixed(b.state, "student.") | cloned(prefixed(b.state, "teacher."))),
        r"different prefixes: (student|teacher).model. \(\d+\)",
    ),
    "a vocabulary of another size": (in_config(vocab_size=51866), "51865 in all, but the model's vocabulary has 51866"),
    "safetensors alone": (single_safetensors, "give the directory, config.json included"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_paragraph(name, bench, inspect):
    craft, message = REFUSED[name]
    assert_refused(inspect(craft(bench)), message)


def lightning(bench: Bench):
    state = prefixed(bench.openai_state, "model.")
    beside = {"epoch": 3, "hyper_parameters": {"lr": 1e-5}, "optimizer_states": []}
    return bench.pt({**beside, "state_dict": state}, "model.ckpt")


def projection_alone(bench: Bench):
    state = dict(bench.state)
    state["proj_out.weight"] = state.pop(EMBEDDING)
    return bench.huggingface(state=state)


def trained(bench: Bench):
    def of_training(path):
        torch.save({"state": {}, "by": RunsCode()}, path)

    beside = {"optimizer.pt": of_training, "training_args.bin": of_training, "trainer_state.json": "{}"}
    return bench.huggingface({"tokenizer.json": None, **beside})


# What makes each, and what is noted about it; None where nothing is.
OPENED = {
    "plain directory": (lambda b: b.huggingface(), None),
    "plain .pt": (lambda b: b.whisper_pt(), None),
    "plain CTranslate2": (lambda b: b.ctranslate2(), None),
    "torch.compile": (lambda b: b.huggingface(state=prefixed(b.state, "_orig_mod.")), "begins with '_orig_mod.model.'"),
    "DataParallel": (lambda b: b.huggingface(state=prefixed(b.state, "module.")), "begins with 'module.model.'"),
    "model. twice": (lambda b: b.huggingface(state=prefixed(b.state, "model.")), "begins with 'model.model.'"),
    "peft": (lambda b: b.huggingface(state=prefixed(b.state, "base_model.model.")), "'base_model.model.model.'"),
    "projection alone": (projection_alone, None),
    "training directory": (trained, None),
    "former tokenizer": (lambda b: b.huggingface(former_tokenizer(b)), None),
    "padded": (lambda b: b.huggingface(state=with_rows(b, 51904), config={"vocab_size": 51904}), None),
    "tokens added": (
        lambda b: b.huggingface(
            {"tokenizer.json": grown_tokenizer(b)}, state=with_rows(b, 51867), config={"vocab_size": 51867}
        ),
        None,
    ),
    "transformers' state dict": (
        lambda b: b.pt(b.toy.module.state_dict()),
        "with 64 values for each attention head: 1 in each",
    ),
    "torch.compile in .pt": (
        lambda b: b.pt({"dims": TOY.to_dict(), "model_state_dict": prefixed(b.openai_state, "_orig_mod.")}),
        "begins with '_orig_mod.'",
    ),
    "DataParallel in .pt": (
        lambda b: b.pt({"dims": TOY.to_dict(), "model_state_dict": prefixed(b.openai_state, "module.")}),
        "begins with 'module.'",
    ),
    "Lightning": (lightning, "begins with 'model.'.*with 64 values for each attention head"),
    "training state beside": (
        lambda b: b.pt(
            {"dims": TOY.to_dict(), "model_state_dict": b.openai_state, "epoch": 3, "optimizer_state_dict": {"lr": 0.1}}
        ),
        None,
    ),
    "nothing suppressed": (in_settings({"suppress_tokens": [], "begin_suppress_tokens": []}), None),
    "nothing stated": (in_settings({"suppress_tokens": None, "alignment_heads": None, "lang_to_id": None}), None),
    "an id of large-v3": (in_settings({"suppress_tokens": [1, 2, 7, 51865]}), r"holds \[51865\], beyond .* ignored"),
    "heads of another model": (in_settings({"alignment_heads": [[9, 9], "x"]}), "alignment_heads .*are left out"),
    "a forced language": (
        in_config(forced_decoder_ids=[[1, 50263], [2, 50359], [3, 50363]]),
        r"config.json forces the language ru, no timestamps \(forced_decoder_ids\), which is not taken over",
    ),
    "options of transformers": (
        in_settings({"num_beams": 5, "language": "hindi", "no_speech_threshold": 0.3, "temperature": 1.0}),
        "states language hindi, num_beams 5, no_speech_threshold 0.3, which is not taken over",
    ),
    "two files that differ": (
        lambda b: b.huggingface({"generation_config.json": {"suppress_tokens": [7]}}, {"suppress_tokens": [8]}),
        "config.json states another suppress_tokens than generation_config.json, which goes first",
    ),
    "windows of another length": (
        in_file("preprocessor_config.json", {"feature_size": 80, "chunk_length": 30}),
        "states windows of 30 s; the encoder's 20 positions are 0.4 s",
    ),
}


@pytest.mark.parametrize("name", OPENED)
def test_it_opens_and_what_is_read_otherwise_is_said(name, bench, inspect):
    craft, said = OPENED[name]
    outcome = inspect(craft(bench), "--json")
    assert outcome.status == 0 and outcome.stderr == "", outcome.stderr
    facts = json.loads(outcome.stdout)
    assert facts["dims"] == {**TOY.to_dict(), "n_vocab": facts["dims"]["n_vocab"]}
    if said is None:
        assert facts["notes"] == []
    else:
        assert re.search(said, " ".join(facts["notes"])), facts["notes"]


def test_a_pickle_beside_safetensors_is_not_read(bench, inspect):
    assert inspect(bench.huggingface({"pytorch_model.bin": code_in_weights})).status == 0
