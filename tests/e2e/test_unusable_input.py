"""Unusable input: exit status 2, one paragraph that names the offender and the remedy, nothing written."""

import copy
import json
import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from artifact_samples import contents, write_artifact
from checkpoint_writers import Writers, openai_state, tokenizers_parsed_once
from small_models import VARIANTS

from whisper2max.artifact.manifest import FORMAT_VERSION, manifest_digest
from whisper2max.checkpoints import random_checkpoint
from whisper2max.cli import main as cli
from whisper2max.conversion import convert
from whisper2max.core.errors import ArtifactError, CheckpointError, TokenizerError, UsageError, Whisper2MaxError
from whisper2max.runtime import engine, model
from whisper2max.samples import SPEECH

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 290403936\n"
HTML_PAGE = "<!DOCTYPE html>\n<html><head><title>401 Unauthorized</title></head></html>\n"
FEED_FORWARD = {
    "openai": "encoder.blocks.0.mlp.0.weight",
    "huggingface": "model.encoder.layers.0.fc1.weight",
    "ctranslate2": "encoder/layer_0/ffn/linear_0/weight",
}


@pytest.fixture(scope="module", autouse=True)
def each_tokenizer_is_parsed_once():
    with tokenizers_parsed_once():
        yield


@pytest.fixture(scope="module")
def toy(each_tokenizer_is_parsed_once):
    return random_checkpoint(VARIANTS["english_80_mels"], seed=11)


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch, tmp_path):
    """Input that is accepted by mistake fails the test at once instead of compiling for minutes."""

    def refuse(*arguments):
        raise AssertionError("unusable input reached the compiler")

    monkeypatch.setattr("whisper2max.conversion.compile_graphs", refuse)
    monkeypatch.setenv("WHISPER2MAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """A folder that is emptied at once: every vocabulary takes megabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def write(folder) -> Writers:
    return Writers(folder)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, directories included."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_one_paragraph(message: str) -> None:
    assert message and message == message.strip()
    assert "\n" not in message and "Traceback" not in message and "  " not in message
    assert message[-1] in ".:)", message


@pytest.fixture
def refused(folder):
    """Converts something unusable, and checks how it is refused."""

    def check(kind: type[Whisper2MaxError], *patterns: str, output: Path | None = None, **options) -> str:
        output = output or folder / "made" / "on" / "the" / "way"
        before = snapshot(folder)
        with pytest.raises(kind) as caught:
            convert(output=output, **options)
        assert caught.value.exit_code == 2
        message = str(caught.value)
        assert_one_paragraph(message)
        for pattern in patterns:
            assert re.search(pattern, message), f"{pattern} is not in: {message}"
        assert snapshot(folder) == before
        return message

    return check


def shorten(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])


def test_a_missing_file(folder, refused):
    path = folder / "absent.pt"
    refused(CheckpointError, re.escape(str(path)), "does not exist", r"Give the path of a \.pt file", checkpoint=path)
    refused(CheckpointError, "^nowhere does not exist", "hub id such as openai/whisper-base", checkpoint="nowhere")
    refused(CheckpointError, "use --size base", checkpoint="base")
    for unusual in ("x" * 5000, "~nobody-of-this-name/base.pt", "zero\0byte.pt"):
        refused(CheckpointError, "does not exist", checkpoint=unusual)


def test_a_directory_without_a_model(folder, refused):
    empty = folder / "empty"
    empty.mkdir()
    (empty / "README.md").write_text("nothing else\n")
    refused(CheckpointError, f"{empty} holds no model", "expected model.safetensors.*model.bin", checkpoint=empty)
    (empty / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    refused(CheckpointError, "config.json lacks d_model.*again", checkpoint=empty)


def test_a_directory_whose_weights_were_not_downloaded(toy, write, refused):
    path = write.huggingface(toy)
    (path / "model.safetensors").unlink()
    refused(CheckpointError, "no weights: expected model.safetensors", "Download them", checkpoint=path)


STAND_INS = {"git-LFS pointer": (LFS_POINTER, "git lfs pull"), "HTML page": (HTML_PAGE, "Download it again")}


@pytest.mark.parametrize("stand_in", STAND_INS)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "pytorch_model.bin"])
def test_a_stand_in_for_a_huggingface_file(toy, write, refused, name, stand_in):
    content, remedy = STAND_INS[stand_in]
    path = write.huggingface(toy, pickle=name == "pytorch_model.bin", files={name: content})
    refused(
        TokenizerError if name == "tokenizer.json" else CheckpointError,
        re.escape(f"{path / name} is a") + f"n? {stand_in}",
        remedy,
        checkpoint=path,
    )


@pytest.mark.parametrize("stand_in", STAND_INS)
@pytest.mark.parametrize("name", ["base.pt", "model.bin"])
def test_a_stand_in_for_a_single_file(folder, refused, name, stand_in):
    content, remedy = STAND_INS[stand_in]
    path = folder / "downloaded"
    path.mkdir()
    (path / name).write_text(content)
    checkpoint = path / name if name == "base.pt" else path
    refused(CheckpointError, f"{name} is an? {stand_in}", remedy, checkpoint=checkpoint)


@pytest.mark.parametrize("kept", [0.0, 0.00001, 0.5, 0.999])
def test_truncated_safetensors(toy, write, refused, kept):
    path = write.huggingface(toy)
    shorten(path / "model.safetensors", kept)
    refused(CheckpointError, "model.safetensors", "truncated|empty", "[Dd]ownload.*again", checkpoint=path)


@pytest.mark.parametrize("kept", [0.0, 0.00001, 0.5, 0.999])
def test_a_truncated_pt(toy, write, refused, kept):
    path = write.openai(toy)
    shorten(path, kept)
    refused(CheckpointError, "toy.pt", "truncated|empty", "get it again|[Dd]ownload.*again", checkpoint=path)


@pytest.mark.parametrize(
    "content",
    [b"\x93noise\xff\n" * 300, b"\x80\x02noise", b"just words\n" * 30],
    ids=["noise", "noise that starts as a pickle", "text"],
)
def test_noise_named_pt(folder, refused, content):
    path = folder / "noise.pt"
    path.write_bytes(content)
    message = refused(CheckpointError, "noise.pt cannot be read", checkpoint=path)
    assert "weights_only" not in message


@pytest.mark.parametrize("kept", [0.0, 0.00001, 0.5, 0.999])
def test_a_truncated_ctranslate2_model(toy, write, refused, kept):
    path = write.ctranslate2(toy)
    shorten(path / "model.bin", kept)
    refused(CheckpointError, "model.bin", "truncated|empty", "[Dd]ownload.*again", checkpoint=path)


class RunsCode:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["beside the weights", "among the weights", "pytorch_model.bin"])
def test_a_pickle_that_tries_to_run_code(toy, write, folder, refused, place):
    code = RunsCode(folder / "it-ran")
    if place == "pytorch_model.bin":
        path = write.huggingface(toy, pickle=True, state={"model.encoder.conv1.weight": code})
    elif place == "among the weights":
        path = write.openai(toy, state={"encoder.conv1.weight": code})
    else:
        path = write.openai(toy, extra=code)
    message = refused(
        CheckpointError, "toy", r"besides tensors \(posix\.mkdir\)", "Save it again as a state dict", checkpoint=path
    )
    assert "weights_only" not in message, "torch's advice is to run the code"
    assert not (folder / "it-ran").exists()


def damaged(toy, source_format: str, fault: str) -> dict[str, torch.Tensor | None]:
    """Changes to the tensors of a file: one missing, extra, transposed or NaN."""
    name = FEED_FORWARD[source_format]
    tensor = toy.module.state_dict()[FEED_FORWARD["huggingface"]]
    assert tensor.shape[0] != tensor.shape[1]
    if fault == "missing":
        return {name: None}
    if fault == "extra":
        return {name.replace("weight", "lora_A"): torch.zeros(3)}
    if fault == "transposed":
        return {name: tensor.T.contiguous()}
    holed = tensor.clone()
    holed[5, 7] = float("nan")
    return {name: holed}


FAULTS = {
    "missing": r"{name}: missing, expected shape \[128, 32\]",
    "extra": "{extra}: belongs to no part of a Whisper",
    "transposed": r"{name}: shape \[32, 128\] \(transposed\), expected \[128, 32\]",
    "nan": "{name}: holds NaN",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("source_format", FEED_FORWARD)
def test_one_tensor_that_is_wrong(toy, write, refused, source_format, fault):
    changes = damaged(toy, source_format, fault)
    if source_format == "openai":
        state = {name: tensor.half() for name, tensor in openai_state(toy.module, toy.dims).items()} | changes
        path = write.openai(toy, model_state_dict={key: value for key, value in state.items() if value is not None})
    elif source_format == "huggingface":
        path = write.huggingface(toy, state=changes)
    else:
        path = write.ctranslate2(toy, variables=changes)
    expected = FAULTS[fault].format(name=FEED_FORWARD[source_format], extra=next(iter(changes)))
    remedy = "parts of its own is not converted" if fault == "extra" else "get it again from its source"
    refused(CheckpointError, "1 tensor is not", expected, remedy, checkpoint=path)


@pytest.mark.parametrize("odd", ["sparse", "meta"])
def test_a_tensor_without_plain_values(toy, write, refused, odd):
    """torch saves and loads these as readily as others."""
    bias = torch.zeros(32).to_sparse() if odd == "sparse" else torch.zeros(32, device="meta")
    path = write.openai(toy, state={"encoder.conv1.bias": bias})
    refused(CheckpointError, "objects besides tensors .*_rebuild_(sparse|meta)_tensor", "state dict", checkpoint=path)


def test_nan_in_a_live_module(toy, refused):
    module = copy.deepcopy(toy.module)
    module.model.decoder.layer_norm.bias.data[3] = float("nan")
    refused(CheckpointError, "model.decoder.layer_norm.bias: holds NaN", "get it again", module=module)


def test_mel_bins_that_disagree(toy, write, refused):
    path = write.huggingface(toy, files={"preprocessor_config.json": {"feature_size": 128}})
    refused(
        CheckpointError,
        "conv1 has 80 mel channels, but preprocessor_config.json says 128",
        "Replace it by the one",
        checkpoint=path,
    )
    shutil.rmtree(path)
    path = write.huggingface(toy, config={"num_mel_bins": 128}, files={"preprocessor_config.json": None})
    shapes = r"conv1.weight: shape \[32, 80, 3\], expected \[32, 128, 3\]"
    refused(CheckpointError, shapes, "belongs to another model", checkpoint=path)
    path = write.openai(toy, dims=toy.dims.to_dict() | {"n_mels": 128})
    refused(CheckpointError, "toy.pt", shapes, "belongs to another model", checkpoint=path)


@pytest.fixture(scope="module")
def multilingual_tokenizer(tmp_path_factory):
    """A Whisper's tokenizer.json, but not that of the toy, whose vocabulary is English."""
    path = tmp_path_factory.mktemp("multilingual") / "tokenizer.json"
    path.write_bytes(random_checkpoint(VARIANTS["multilingual_80_mels"], seed=0).tokenizer_json)
    return path


def test_a_tokenizer_that_is_not_this_models(toy, write, folder, multilingual_tokenizer, refused):
    mismatch = r"51865.*51864|51864.*51865"
    path = write.huggingface(toy, files={"tokenizer.json": multilingual_tokenizer.read_text(encoding="utf-8")})
    refused(TokenizerError, mismatch, "--tokenizer", checkpoint=path)
    path = write.openai(toy)
    refused(TokenizerError, mismatch, "--tokenizer", checkpoint=path, tokenizer=multilingual_tokenizer)
    refused(TokenizerError, mismatch, "--tokenizer", module=toy.module, tokenizer=multilingual_tokenizer)
    absent = folder / "absent.json"
    refused(TokenizerError, f"--tokenizer {absent} does not exist", "give a", checkpoint=path, tokenizer=absent)


def test_a_tokenizer_with_one_language_too_few(toy, write, folder, refused):
    """Text tokens, special tokens and 1501 timestamps have to make up the vocabulary."""
    document = json.loads(toy.tokenizer_json)
    added = document["added_tokens"]
    first = added[0]["id"]
    del added[50]
    for index, token in enumerate(added):
        token["id"] = first + index
    short = folder / "tokenizer.json"
    short.write_text(json.dumps(document), encoding="utf-8")
    refused(TokenizerError, "51863", "51864", "--tokenizer", checkpoint=write.openai(toy), tokenizer=short)


def test_a_lora_adapter_without_its_base(folder, refused):
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "openai/whisper-small"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    refused(
        CheckpointError,
        f"{adapter} is a LoRA adapter without its base",
        "in openai/whisper-small",
        r"merge_and_unload\(\)",
        checkpoint=adapter,
    )


def test_models_that_are_not_whisper(toy, write, folder, refused):
    path = write.huggingface(toy, config={"model_type": "wav2vec2"})
    refused(CheckpointError, "config.json: model_type is 'wav2vec2', expected 'whisper'", checkpoint=path)
    torch.save({"state_dict": {"fc.weight": torch.zeros(2)}}, folder / "resnet.pt")
    refused(CheckpointError, "resnet.pt holds no Whisper", "such as fc.weight", checkpoint=folder / "resnet.pt")
    translator = folder / "translator"
    translator.mkdir()
    (translator / "model.bin").write_bytes(write.ctranslate2_bytes({}, aliases={}, kind="TransformerSpec"))
    refused(CheckpointError, "a CTranslate2 TransformerSpec, expected WhisperSpec", checkpoint=translator)
    refused(CheckpointError, "modules.linear.Linear is not converted; pass a", module=torch.nn.Linear(2, 2))


def test_an_int8_ctranslate2_model(toy, write, refused):
    quantised = {}
    for name, tensor in write.ctranslate2_variables(toy.module, torch.float32).items():
        if name.endswith("weight") and "/linear_" in name:
            scale = 127 / tensor.abs().amax(dim=1)
            quantised |= {name: (tensor * scale[:, None]).round().to(torch.int8), f"{name}_scale": scale}
    path = write.ctranslate2(toy, variables=quantised)
    refused(CheckpointError, "model.bin is quantised", "linear_0/weight.* int8", "float16 or float32", checkpoint=path)


@pytest.mark.parametrize("below", ["artifact", "deeper/artifact"])
def test_an_output_under_a_file(toy, folder, refused, below):
    (folder / "notes.txt").write_text("mine\n")
    output = folder / "notes.txt" / below
    refused(UsageError, "notes.txt is a file", "Choose an --output", output=output, module=toy.module)
    refused(
        UsageError, "notes.txt is a file", "Choose another", output=folder / "notes.txt", module=toy.module, force=True
    )


def test_unusable_input_leaves_an_existing_artifact_alone(toy, write, folder, refused):
    output = write_artifact(folder / "artifacts" / "base")
    (folder / "absent.pt").symlink_to("gone.pt")
    refused(CheckpointError, "absent.pt does not exist", checkpoint=folder / "absent.pt", output=output, force=True)
    path = write.openai(toy)
    shorten(path, 0.9)
    refused(CheckpointError, "toy.pt cannot be read", checkpoint=path, output=output, force=True)
    refused(UsageError, "--force", checkpoint=path, output=output)


@pytest.fixture
def small_disk(folder):
    """An empty filesystem with 1 MiB of room, less than the weights of the toy take."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root and the right to mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk(toy, small_disk, refused):
    output = write_artifact(small_disk / "base", "old")
    before = contents(output)
    patterns = ("The disk of .* is full", "No space left on device", "Free some space", "another disk")
    refused(ArtifactError, *patterns, output=output, module=toy.module, force=True)
    assert contents(output) == before
    refused(ArtifactError, *patterns, output=small_disk / "made" / "new", module=toy.module)
    assert os.listdir(small_disk) == ["base"]


@pytest.fixture
def no_native_code(monkeypatch):
    """Loading has to refuse before anything of the artifact is handed to MAX."""

    def refuse(*arguments):
        raise AssertionError("an unusable artifact reached the engine")

    monkeypatch.setattr(engine, "Engine", refuse)


def of_another_format(directory: Path, version: object) -> Path:
    path = write_artifact(directory) / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format_version": version}
    path.write_text(json.dumps(manifest | {"digest": manifest_digest(manifest)}))
    return directory


UNLOADABLE = {
    "a newer format": (
        lambda directory: of_another_format(directory, FORMAT_VERSION + 1),
        (f"format_version {FORMAT_VERSION + 1}", f"reads {FORMAT_VERSION}", "upgrade whisper2max"),
    ),
    "an older format": (
        lambda directory: of_another_format(directory, 1),
        ("format_version 1", f"reads {FORMAT_VERSION}", "convert the model again"),
    ),
    "another MAX version": (
        lambda directory: write_artifact(directory, versions={"max": "25.1.0"}),
        (r"compiled by MAX 25\.1\.0", "whisper2max compile", "pip install max==25.1.0"),
    ),
    "CPU features that no machine has": (
        lambda directory: write_artifact(directory, target={"name": "native", "cpu_features": ["avx_imagined"]}),
        ("this machine lacks: avx_imagined", "whisper2max compile"),
    ),
    "a failed conversion": (
        lambda directory: write_artifact(directory).rename(f"{directory}.failed"),
        ("failed conversion", "convert the model again"),
    ),
    "a checkpoint": (
        lambda directory: directory.mkdir() or (directory / "config.json").write_text("{}") and directory,
        ("is not an artifact", "whisper2max convert --checkpoint"),
    ),
}


@pytest.mark.parametrize("kind", UNLOADABLE)
def test_an_artifact_that_cannot_be_loaded(folder, no_native_code, kind):
    make, patterns = UNLOADABLE[kind]
    path = make(folder / "artifact")
    before = snapshot(folder)
    with pytest.raises(ArtifactError) as caught:
        model.load(path)
    assert caught.value.exit_code == 2
    assert_one_paragraph(str(caught.value))
    for pattern in (re.escape(str(path)), *patterns):
        assert re.search(pattern, str(caught.value)), f"{pattern} is not in: {caught.value}"
    assert snapshot(folder) == before


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process; gives its stderr after checking how it failed."""

    def run(*arguments) -> str:
        monkeypatch.setattr("sys.argv", ["whisper2max", *map(str, arguments)])
        with warnings.catch_warnings():
            status = cli.run()
        captured = capsys.readouterr()
        assert status == 2
        assert captured.out == ""
        assert captured.err.startswith("error: ") and captured.err.endswith("\n")
        assert_one_paragraph(captured.err.removesuffix("\n"))
        return captured.err

    return run


def test_the_command_refuses_a_checkpoint(toy, write, folder, command):
    path = write.huggingface(toy, state=damaged(toy, "huggingface", "nan"))
    before = snapshot(folder)
    error = command("convert", "--checkpoint", path, "--output", folder / "made" / "artifact")
    assert f"{FEED_FORWARD['huggingface']}: holds NaN" in error and "get it again" in error
    assert f"{FEED_FORWARD['huggingface']}: holds NaN" in command("inspect", path)
    assert snapshot(folder) == before


def test_the_command_refuses_an_output(toy, write, folder, command):
    path = write.openai(toy)
    assert f"{path} is a file" in command("convert", "--checkpoint", path, "--output", path / "artifact")


def test_the_command_refuses_an_artifact(folder, no_native_code, command):
    make, (offender, remedy) = UNLOADABLE["CPU features that no machine has"]
    error = command("transcribe", make(folder / "artifact"), SPEECH)
    assert offender in error and remedy in error
