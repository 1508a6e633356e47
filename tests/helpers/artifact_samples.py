"""Small artifacts whose files agree with each other, with stand-ins for compiled graphs: nothing in them runs."""

import json
from dataclasses import replace
from functools import cache
from importlib import metadata

from whisper2max.artifact.generation_schema import SPECIAL_NAMES, mel_settings
from whisper2max.artifact.manifest import GRAPHS_OF, graph_file, write_manifest
from whisper2max.core.dims import ModelDimensions
from whisper2max.graph.ir import Conv1d, Embedding, GraphSpec, Linear, expected_nodes
from whisper2max.runtime.tokens import BYTE_TEXTS, Tokenizer

SPECIAL_TEXTS = "endoftext startoftranscript en translate transcribe".split()
SPECIAL_TEXTS += "startoflm startofprev nospeech notimestamps".split()
N_TEXT = len(BYTE_TEXTS)
DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 4,
    "n_audio_head": 2,
    "n_audio_layer": 1,
    "n_vocab": N_TEXT + len(SPECIAL_TEXTS) + 1501,
    "n_text_ctx": 448,
    "n_text_state": 4,
    "n_text_head": 2,
    "n_text_layer": 1,
}


def manifest_fields(**changes):
    """The fields that `convert` gives to `write_manifest`."""
    fields = {
        "created": "2026-01-01T00:00:00+00:00",
        "name": "sample",
        "dims": DIMS,
        "dtype": "float32",
        "target": {"name": "native", "cpu_features": []},
        "source": {"format": "random", "name": "sample", "revision": None, "sha256": None},
        "versions": {"max": metadata.version("max"), "mojo": "0", "whisper2max": "0", "torch": "0"},
        "verified": True,
        "executed": True,
        "also": [],
        "parity": {"passed": True},
    }
    return fields | changes


@cache
def sample_spec(backend: str = "cpu") -> GraphSpec:
    """The network of `DIMS` in float32, as a backend takes it."""
    if backend == "max":
        from small_models import packed_spec  # which imports torch

        return packed_spec(ModelDimensions(**DIMS), "float32", backend)
    nodes = dict(expected_nodes(ModelDimensions(**DIMS)))
    packed = {
        path: replace(node, packed="float32")
        for path, node in nodes.items()
        if isinstance(node, Conv1d | Linear | Embedding)
    }
    return GraphSpec(ModelDimensions(**DIMS), "float32", {**nodes, **packed})


@cache
def tokenizer_json() -> bytes:
    """A tokenizer of single bytes, which has the special tokens of Whisper."""
    specials = [f"<|{text}|>" for text in SPECIAL_TEXTS]
    document = {
        "added_tokens": [{"id": N_TEXT + n, "content": text, "special": True} for n, text in enumerate(specials)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {text: n for n, text in enumerate(BYTE_TEXTS)}, "merges": []},
    }
    return json.dumps(document).encode()


@cache
def generation_json() -> str:
    """The generation.json of that tokenizer."""
    special = Tokenizer.from_json(tokenizer_json(), DIMS["n_vocab"]).special
    fields = {
        "special_tokens": {name: getattr(special, name) for name in SPECIAL_NAMES},
        "languages": special.languages,
        "multilingual": special.multilingual,
        "suppress_tokens": [special.sot],
        "begin_suppress_tokens": [special.eot],
        "alignment_heads": None,
        "mel": mel_settings(ModelDimensions(**DIMS)),
    }
    return json.dumps({"format_version": 1, **fields, "origin": {name: "made for a test" for name in fields}})


@cache
def weights(content: str, backend: str = "cpu") -> bytes:
    """A weights.safetensors of `sample_spec`, filled with a text."""
    header, end = {}, 0
    for name, (_, shape) in sample_spec(backend).stored().items():
        begin = end
        size = 4
        for axis in shape:
            size *= axis
        end = begin + size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header)
    text += " " * (-len(text) % 8)
    data = (content.encode() * (end // len(content.encode()) + 1))[:end]
    return len(text).to_bytes(8, "little") + text.encode() + data


def write_files(directory, content="sample", backend="cpu", folders=()):
    """The files of an artifact, graphs in these folders too; `content` tells one artifact's files from another's."""
    graphs = [graph_file(name, folder) for folder in ("", *folders) for name in GRAPHS_OF[backend]]
    for name in ("model.py", "kernels/attention.mojo", "parity.html", *graphs):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"{name} of {content}\n")
    (directory / "graph.txt").write_text(sample_spec(backend).to_text())
    (directory / "tokenizer.json").write_bytes(tokenizer_json())
    (directory / "generation.json").write_text(generation_json())
    (directory / "parity.json").write_text('{"passed": true}\n')
    (directory / "weights.safetensors").write_bytes(weights(content, backend))


def write_artifact(directory, content="sample", backend="cpu", **changes):
    directory.mkdir(parents=True, exist_ok=True)
    write_files(directory, content, backend, [target["name"] for target in changes.get("also", [])])
    write_manifest(directory, manifest_fields(name=content, **changes))
    return directory


def contents(directory):
    """Every file under a directory by relative name."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
