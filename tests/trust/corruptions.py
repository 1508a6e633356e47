"""Seeded corruptions of checkpoints and artifacts, of which none leaves a usable one.

A bit that flips in a weight makes another weight, which no reader can refuse, and one in what nothing reads changes
nothing. So bits are flipped where they mean something that is checked. Weights of artifacts are left to the comparison.
"""

import json
import os
import random
import re
from collections.abc import Callable

from crafted_checkpoints import DEEP, ESCAPE, zero_device
from crafting import Crafted

Corruption = Callable[[random.Random, Crafted], None]
ABSURD = (0, -1, 10**18, 2**63, 2**70, 1.5, 1e300, "80", None, [], {}, True, [[[]]], "\ud800", ESCAPE)
NAMES = ("../up", "/etc/passwd", "..", "", "a/b.safetensors", f"{ESCAPE}.safetensors", "a" * 300, "\0", "~/x")


def flip(rng: random.Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    """One bit of one byte inside one of the spans."""
    first, end = rng.choice(spans)
    at = rng.randrange(first, end)
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def spans(content: bytes, pattern: bytes) -> list[tuple[int, int]]:
    found = [match.span() for match in re.finditer(pattern, content, re.DOTALL)]
    assert found, f"{pattern} is not there"
    return found


def flip_in(name: str, pattern: bytes) -> Corruption:
    """A bit of what a pattern matches in a file."""

    def corrupt(rng: random.Random, crafted: Crafted) -> None:
        content = crafted.read(name)
        crafted.put(name, flip(rng, content, spans(content, pattern)))

    return corrupt


def truncate(name: str) -> Corruption:
    def corrupt(rng: random.Random, crafted: Crafted) -> None:
        content = crafted.read(name)
        crafted.put(name, content[: rng.randrange(len(content) - 1)])

    return corrupt


def extend(name: str) -> Corruption:
    def corrupt(rng: random.Random, crafted: Crafted) -> None:
        crafted.put(name, crafted.read(name) + rng.randbytes(rng.randrange(1, 200)))

    return corrupt


def special(name: str) -> Corruption:
    """Something that is no file in the place of one."""

    def corrupt(rng: random.Random, crafted: Crafted) -> None:
        path = crafted.path / name
        path.unlink()
        rng.choice([os.mkfifo, os.mkdir, zero_device, lambda path: path.symlink_to("/nowhere")])(path)

    return corrupt


def replace_json(name: str, change: Callable[[random.Random, object], object]) -> Corruption:
    """JSON after a change."""

    def corrupt(rng: random.Random, crafted: Crafted) -> None:
        document = json.loads(crafted.read(name))
        changed = change(rng, document)
        crafted.put(name, json.dumps(document if changed is None else changed))

    return corrupt


def text_in_place(name: str) -> Corruption:
    """Other text than JSON, or JSON that is too deep, too odd or too long."""
    texts = [DEEP, "", "[]", "null", "{", '{"a": NaN}', '{"a": 1, "a": 1}', '{"a": "\\ud800"}', "\x00", "<html></html>"]
    texts += ['{"a": ' + "9" * 5000 + "}", json.dumps({"a": "x" * (17 << 20)})]

    def corrupt(rng: random.Random, crafted: Crafted) -> None:
        crafted.put(name, rng.choice(texts))

    return corrupt


def one_of(choose: Callable[[random.Random], tuple[str, object]]) -> Callable[[random.Random, dict], None]:
    """Sets one field of an object to something else."""

    def change(rng: random.Random, document: dict) -> None:
        name, value = choose(rng)
        document[name] = value

    return change


def change_header(change: Callable[[random.Random, dict], None], name: str = "model.safetensors") -> Corruption:
    """The header of safetensors after a change, with the tensors as they were."""

    def corrupt(rng: random.Random, crafted: Crafted) -> None:
        content = crafted.read(name)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        change(rng, header)
        encoded = json.dumps(header).encode()
        crafted.put(name, len(encoded).to_bytes(8, "little") + encoded + content[8 + length :])

    return corrupt


def two_tensors(rng: random.Random, header: dict) -> tuple[str, str]:
    """Names of two tensors whose shapes differ."""
    names = sorted(name for name in header if name != "__metadata__")
    first = rng.choice(names)
    return first, rng.choice([name for name in names if header[name]["shape"] != header[first]["shape"]])


def swap_offsets(rng: random.Random, header: dict) -> None:
    first, other = two_tensors(rng, header)
    places = header[first]["data_offsets"], header[other]["data_offsets"]
    header[other]["data_offsets"], header[first]["data_offsets"] = places


def swap_tensors(rng: random.Random, header: dict) -> None:
    first, other = two_tensors(rng, header)
    header[first], header[other] = header[other], header[first]


def absurd_entry(rng: random.Random, header: dict) -> None:
    entry = header[rng.choice(sorted(name for name in header if name != "__metadata__"))]
    key = rng.choice(["dtype", "shape", "data_offsets"])
    entry[key] = rng.choice([*ABSURD, [-1, 4], [0, 2**64 - 1], [2**62, 2**62], "F33", [2**32] * 3])


def rename_tensor(rng: random.Random, header: dict) -> None:
    name = rng.choice(sorted(name for name in header if name != "__metadata__"))
    header[rng.choice([ESCAPE, "", "../" + name, name + "\x00", "x" * 5000])] = header.pop(name)


def swap_shards(rng: random.Random, document: dict) -> None:
    """Sends some tensor to another shard."""
    shards = sorted(set(document["weight_map"].values()))
    name = rng.choice(sorted(document["weight_map"]))
    document["weight_map"][name] = rng.choice([each for each in shards if each != document["weight_map"][name]])


def name_shard(rng: random.Random, document: dict) -> None:
    document["weight_map"][rng.choice(sorted(document["weight_map"]))] = rng.choice([*NAMES, *ABSURD[:-2]])


def renumber(rng: random.Random, document: dict) -> None:
    """An id of a token that is taken, out of range or no id."""
    added, vocab = document["added_tokens"], document["model"]["vocab"]
    value = rng.choice([7, 51865 + 10**6, *(each for each in ABSURD if each not in (0, "\ud800"))])
    if rng.random() < 0.5:
        rng.choice(added)["id"] = value
    else:
        vocab[rng.choice([text for text, token in sorted(vocab.items()) if token != 7])] = value


def lose_tokens(rng: random.Random, document: dict) -> None:
    if rng.random() < 0.5:
        document["added_tokens"].pop(rng.randrange(len(document["added_tokens"])))
    else:
        document["model"]["vocab"].pop(rng.choice(sorted(document["model"]["vocab"])))


def other_component(rng: random.Random, document: dict) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    document[rng.choice(["normalizer", "pre_tokenizer", "decoder"])] = rng.choice([split, 7, [], "ByteLevel"])


def odd_setting(rng: random.Random, _: object) -> dict:
    lists = [[-1], ["1"], [[1]], [2**70 * -1], {"a": 1}, "all", 7, True, list(range(51865)), [1.5]]
    return rng.choice(
        [
            {rng.choice(["suppress_tokens", "begin_suppress_tokens"]): rng.choice(lists[:-1])},
            {"suppress_tokens": list(range(51865))},
            {"lang_to_id": rng.choice([{"<|en|>": [1]}, {"<|de|>": 7}, [1], "en", {"<|xx|>": 9}])},
            {"no_timestamps_token_id": rng.choice([7, "50363", [50363], 2**70])},
            {"max_initial_timestamp_index": rng.choice([-1, 1501, "50", [50], 0.5, 2**70])},
        ]
    )


TENSOR_NAME = rb"(?:en|de)coder\.[a-z0-9_.]{6,60}(?:weight|bias|embedding)"
DIMENSION = rb'"(?:d_model|num_mel_bins|vocab_size|(?:en|de)coder_layers|max_(?:source|target)_positions)": [0-9]+'
HEADER = rb'(?<=")(?:model\.[a-z0-9_.]+|dtype|shape|data_offsets|F16)(?=")'
SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def on_dims(rng: random.Random) -> tuple[str, object]:
    names = ["d_model", "num_mel_bins", "vocab_size", "encoder_layers", "decoder_layers", "max_source_positions"]
    return rng.choice([*names, "model_type", "encoder_ffn_dim"]), rng.choice(ABSURD)


JSON_FILES = ("config.json", "generation_config.json", "preprocessor_config.json")

# By kind of source: what can be done to it, each as often as it is named.
OF_SOURCES: dict[str, list[Corruption]] = {
    "openai": [
        truncate("model.pt"),
        special("model.pt"),
        *[flip_in("model.pt", TENSOR_NAME)] * 3,
        flip_in("model.pt", rb"n_(?:mels|audio_[a-z]+|vocab|text_[a-z]+)(?=q|\x94|h)"),
        flip_in("model.pt", rb"HalfStorage|_rebuild_tensor_v2|OrderedDict"),
        flip_in("model.pt", rb"(?<=PK\x01\x02.{42})model/data/1"),
    ],
    "huggingface": [
        truncate("model.safetensors"),
        extend("model.safetensors"),
        special("model.safetensors"),
        *[special(name) for name in JSON_FILES],
        *[text_in_place(name) for name in JSON_FILES[:2]],
        *[flip_in("model.safetensors", HEADER)] * 3,
        flip_in("model.safetensors", rb"^.{8}"),
        flip_in("config.json", DIMENSION),
        replace_json("config.json", one_of(on_dims)),
        replace_json("generation_config.json", odd_setting),
        *[change_header(change) for change in (swap_offsets, swap_tensors, absurd_entry, rename_tensor)],
    ],
    "sharded": [
        truncate(SHARD),
        special(SHARD),
        special(INDEX),
        text_in_place(INDEX),
        flip_in(SHARD, HEADER),
        flip_in(INDEX, rb'"model\.[a-z0-9_.]+": "model-00001-of-00002\.safetensors"'),
        replace_json(INDEX, swap_shards),
        *[replace_json(INDEX, name_shard)] * 2,
    ],
    "pickle": [
        truncate("pytorch_model.bin"),
        special("pytorch_model.bin"),
        *[flip_in("pytorch_model.bin", TENSOR_NAME)] * 2,
        flip_in("pytorch_model.bin", rb"HalfStorage|_rebuild_tensor_v2"),
    ],
    "ctranslate2": [
        truncate("model.bin"),
        extend("model.bin"),
        special("model.bin"),
        *[flip_in("model.bin", rb"(?:en|de)coder/[a-z0-9_/]+/(?:weight|bias|gamma|beta|encodings)\x00")] * 3,
        flip_in("model.bin", rb"(?<=weight\x00\x02).{8}"),
        flip_in("model.bin", rb"(?<=^.{4}).|WhisperSpec"),
        special("tokenizer.json"),
    ],
    "tokenizer": [
        truncate("tokenizer.json"),
        special("tokenizer.json"),
        text_in_place("tokenizer.json"),
        flip_in("tokenizer.json", rb"(?<=<\|)(?:endoftext|startof[a-z]+|trans[a-z]+|notimestamps)(?=\|>\", \"s)"),
        *[replace_json("tokenizer.json", change) for change in (renumber, renumber, lose_tokens, other_component)],
    ],
    "former tokenizer": [
        truncate("vocab.json"),
        *[special(name) for name in ("vocab.json", "merges.txt", "added_tokens.json")],
        *[text_in_place(name) for name in ("vocab.json", "added_tokens.json")],
        replace_json("vocab.json", one_of(lambda rng: (rng.choice("!#$%&"), rng.choice(["7", 300, -1, [0]])))),
        flip_in("merges.txt", rb"(?<=\n)[a-z]{3,} [a-z]{3,}(?=\n)"),
    ],
}


def odd_generation(rng: random.Random, document: dict) -> None:
    """A field that is missing, unknown or of another kind."""
    name = rng.choice(sorted(document.keys() - {"alignment_heads"}))
    if rng.random() < 0.3:
        del document[name]
    elif rng.random() < 0.3:
        document[rng.choice([ESCAPE, "", "extra"])] = 1
    else:
        document[name] = rng.choice([each for each in ABSURD if each is not True and each != document[name]])


def odd_manifest(rng: random.Random, document: dict) -> None:
    """A field that is of another kind, or of another model."""
    name = rng.choice(["format_version", "dims", "dtype", "target", "source", "versions", "files", "name", "verified"])
    absurd = [each for each in ABSURD if each is not True and not (name == "name" and each == "80")]
    if name == "dims" and rng.random() < 0.7:
        document["dims"][rng.choice(sorted(document["dims"]))] = rng.choice(absurd)
    else:
        document[name] = rng.choice(absurd)


def sealed(corruption: Corruption) -> Corruption:
    """The corruption, after which hashes, sizes and digest agree again."""

    def corrupt(rng: random.Random, crafted: Crafted) -> None:
        corruption(rng, crafted)
        crafted.seal()

    return corrupt


def of_any_file(*corruptions: Callable[[str], Corruption]) -> Corruption:
    """One of the corruptions of some file of an artifact, its manifest included."""

    def corrupt(rng: random.Random, crafted: Crafted) -> None:
        name = rng.choice(["manifest.json", *sorted(crafted.json()["files"])])
        rng.choice(corruptions)(name)(rng, crafted)

    return corrupt


def manifest_after(change: Callable[[random.Random, dict], None]) -> Corruption:
    """A manifest that was changed and has the digest that it must have."""

    def corrupt(rng: random.Random, crafted: Crafted) -> None:
        crafted.change_manifest(lambda manifest: change(rng, manifest))

    return corrupt


def flip_a_weight(rng: random.Random, crafted: Crafted) -> None:
    """The highest bit of the exponent of some weight: a value as large as none was, or next to nothing."""
    content = bytearray(crafted.read("weights.safetensors"))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    entry = header[rng.choice(sorted(name for name in header if name.endswith(".bias") and "ln" not in name))]
    at = 8 + length + entry["data_offsets"][0] + 3
    content[at] ^= 0x40
    crafted.put("weights.safetensors", bytes(content))
    crafted.seal()


def remove(name: str) -> Corruption:
    return lambda rng, crafted: (crafted.path / name).unlink()


# By what is done to an artifact, and how often.
OF_ARTIFACTS: dict[str, list[Corruption]] = {
    "not sealed": [
        *[of_any_file(lambda name: flip_in(name, rb"^.+$"))] * 4,
        of_any_file(truncate, extend, special, remove),
        of_any_file(truncate, extend, special, remove),
        text_in_place("manifest.json"),
    ],
    "manifest": [manifest_after(odd_manifest)],
    "weights": [
        sealed(change_header(change, "weights.safetensors"))
        for change in (swap_offsets, swap_tensors, absurd_entry, rename_tensor)
    ],
    "generation": [
        sealed(replace_json("generation.json", odd_generation)),
        sealed(text_in_place("generation.json")),
    ],
    "tokenizer": [
        sealed(replace_json("tokenizer.json", change)) for change in (renumber, lose_tokens, other_component)
    ],
    "graph": [
        sealed(truncate("graph.txt")),
        sealed(flip_in("graph.txt", rb"(?<=\n)(?:encoder|decoder)\.[a-z0-9_.]+|Linear|LayerNorm|_features=[0-9]+")),
    ],
    "to the comparison": [flip_a_weight],
}
