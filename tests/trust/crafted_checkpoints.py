"""Checkpoints that must not be trusted, and odd ones that users have: toy sizes, the real multilingual tokenizer."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import torch
from checkpoint_writers import ctranslate2_bytes, ctranslate2_variables, huggingface_config, openai_state
from safetensors.torch import save_file

from whisper2max.checkpoints import Checkpoint, random_checkpoint
from whisper2max.core.dims import ModelDimensions

TOY = ModelDimensions(
    n_mels=80,
    n_audio_ctx=20,
    n_audio_state=64,
    n_audio_head=1,
    n_audio_layer=2,
    n_vocab=51865,
    n_text_ctx=12,
    n_text_state=64,
    n_text_head=1,
    n_text_layer=2,
)
DEEP = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
ESCAPE = "\x1b]0;t\x07\x1b[2J\x1b[32mOK, verified\x1b[0m"
EMBEDDING = "model.decoder.embed_tokens.weight"


class Bench:
    """A place to craft in, with a toy checkpoint in every format that is not changed but linked to.

    Attributes:
        toy: the checkpoint.
        folder: where crafted files are put.
    """

    def __init__(self, toy: Checkpoint, folder: Path, shared: Path):
        """
        Args:
            toy: the checkpoint.
            folder: an empty directory.
            shared: a directory for what several benches use.
        """
        self.toy, self.folder, self._shared = toy, folder, shared

    @cached_property
    def state(self) -> dict[str, torch.Tensor]:
        """float16, under transformers' names, without the tied projection."""
        tensors = self.toy.module.state_dict()
        return {name: tensor.half() for name, tensor in tensors.items() if name != "proj_out.weight"}

    @cached_property
    def openai_state(self) -> dict[str, torch.Tensor]:
        """float16, under openai-whisper's names."""
        return {name: tensor.half() for name, tensor in openai_state(self.toy.module, self.toy.dims).items()}

    @cached_property
    def tokenizer(self) -> dict:
        """The content of tokenizer.json."""
        return json.loads(self.toy.tokenizer_json)

    def pt(self, content: object, name: str = "model.pt", **options) -> Path:
        """A file of torch.save."""
        torch.save(content, self.folder / name, **options)
        return self.folder / name

    def whisper_pt(self, dims: dict | None = None, state: dict | None = None) -> Path:
        """openai-whisper's, with some dimensions or tensors changed."""
        stated = {**self.toy.dims.to_dict(), **(dims or {})}
        return self.pt({"dims": stated, "model_state_dict": {**self.openai_state, **(state or {})}})

    def huggingface(
        self,
        files: dict[str, object] | None = None,
        config: dict | None = None,
        state: dict[str, torch.Tensor] | None = None,
    ) -> Path:
        """A Hugging Face directory.

        Args:
            files: content by name: bytes, text, a function that makes the file, what becomes JSON, or None for no file.
            config: changes to config.json.
            state: all tensors of other weights.
        """
        plain = self._shared / "huggingface"
        if not plain.exists():
            plain.mkdir(parents=True)
            save_file(self.state, plain / "model.safetensors", metadata={"format": "pt"})
            (plain / "tokenizer.json").write_bytes(self.toy.tokenizer_json)
        folder = self.folder / "huggingface"
        folder.mkdir()
        contents: dict[str, object] = {
            "config.json": {**huggingface_config(self.toy.dims), **(config or {})},
            "tokenizer.json": lambda path: path.symlink_to(plain / path.name),
            "model.safetensors": lambda path: path.symlink_to(plain / path.name),
        }
        if state is not None:
            contents["model.safetensors"] = lambda path: save_file(state, path)
        for name, content in {**contents, **(files or {})}.items():
            if content is None:
                continue
            if callable(content):
                content(folder / name)
            elif isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                text = content if isinstance(content, str) else json.dumps(content)
                (folder / name).write_text(text, encoding="utf-8")
        return folder

    def with_tokenizer(self, change: Callable[[dict], None], config: dict | None = None) -> Path:
        """A Hugging Face directory whose tokenizer.json was changed."""
        document = json.loads(self.toy.tokenizer_json)
        change(document)
        return self.huggingface({"tokenizer.json": document}, config)

    def safetensors(self, header: object, body: bytes = b"") -> Path:
        """A Hugging Face directory with weights of this header."""
        encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
        return self.huggingface({"model.safetensors": len(encoded).to_bytes(8, "little") + encoded + body})

    def ctranslate2(
        self, model: bytes | None = None, variables: dict | None = None, files: dict[str, Callable] | None = None
    ) -> Path:
        """A CTranslate2 directory: a model.bin as it is given, or the toy's with variables changed.

        Args:
            model: the content of model.bin.
            variables: changes, as `ctranslate2_variables` spells them.
            files: functions that make files of these names.
        """
        folder = self.folder / "ctranslate2"
        folder.mkdir()
        if model is None:
            every = {**ctranslate2_variables(self.toy.module, torch.float16), **(variables or {})}
            model = ctranslate2_bytes(every)
        (folder / "model.bin").write_bytes(model)
        if not files:
            (folder / "tokenizer.json").write_bytes(self.toy.tokenizer_json)
        for name, make in (files or {}).items():
            make(folder / name)
        return folder


def toy_checkpoint() -> Checkpoint:
    """The checkpoint that everything is crafted from."""
    return random_checkpoint(TOY, seed=0)


class RunsCode:
    """What becomes a pickle that leaves PWNED in the working directory if it is run."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


def laughs() -> list:
    """10^13 elements when they are counted one by one, 130 objects."""
    nested = ["lol"] * 10
    for _ in range(12):
        nested = [nested] * 10
    return nested


def zero_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def raw_model(
    variables: Iterable[tuple[str, tuple[int, ...], int, bytes]] = (),
    aliases: Iterable[tuple[str, str]] = (),
    n_variables: int | None = None,
) -> bytes:
    """A model.bin of variables (name, shape, type, bytes), whatever they are."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    variables, aliases = list(variables), list(aliases)
    count = len(variables) if n_variables is None else n_variables
    parts = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, count)]
    for name, shape, kind, content in variables:
        parts += [text(name), struct.pack(f"<B{len(shape)}I", len(shape), *shape)]
        parts += [struct.pack("<BI", kind, len(content)), content]
    parts.append(struct.pack("<I", len(aliases)))
    return b"".join(parts + [text(name) for pair in aliases for name in pair])


def zip_bomb(path: Path, unpacked: int) -> Path:
    """An archive whose data.pkl is one string of zeros, `unpacked` bytes long, in a thousandth of them."""
    block = 1 << 20
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = squeeze.compress(b"\x80\x02X" + struct.pack("<I", unpacked)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    zeros = squeeze.compress(bytes(block)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    packed = head + zeros * (unpacked // block) + squeeze.compress(b".") + squeeze.flush()
    name, size = b"archive/data.pkl", 7 + unpacked // block * block + 1
    described = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0)
    local = b"PK\x03\x04" + described + name
    central = b"PK\x01\x02" + struct.pack("<H", 20) + described + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local) + len(packed), 0)
    path.write_bytes(local + packed + central + end)
    return path


def without(path: Path, suffix: str) -> Path:
    """The archive with the entries that end so left out, as if they had been lost."""
    kept = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            if not info.filename.endswith(suffix):
                new.writestr(info.filename, old.read(info))
    path.write_bytes(kept.getvalue())
    return path


def pickled(path: Path, content: object) -> Path:
    """A pickle as Python's own module writes it."""
    path.write_bytes(pickle.dumps(content))
    return path


def former_tokenizer(bench: Bench) -> dict[str, object]:
    """vocab.json, merges.txt and added_tokens.json in the place of tokenizer.json."""
    model = bench.tokenizer["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        "tokenizer.json": None,
        "vocab.json": model["vocab"],
        "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n",
        "added_tokens.json": {token["content"]: token["id"] for token in bench.tokenizer["added_tokens"]},
    }


def grown_tokenizer(bench: Bench) -> dict:
    """The tokenizer with a word and a mark added after the timestamps."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    added = [
        {"id": 51865, "content": "Zyvox", "special": False, **flags},
        {"id": 51866, "content": "<|speaker|>", "special": True, **flags},
    ]
    return {**bench.tokenizer, "added_tokens": [*bench.tokenizer["added_tokens"], *added]}


def with_rows(bench: Bench, n_vocab: int) -> dict[str, torch.Tensor]:
    """The weights with more rows in the token embedding."""
    more = torch.zeros(n_vocab - TOY.n_vocab, TOY.n_text_state, dtype=torch.float16)
    return {**bench.state, EMBEDDING: torch.cat([bench.state[EMBEDDING], more])}


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}
