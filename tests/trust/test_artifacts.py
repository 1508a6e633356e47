"""Artifacts that are damaged, or changed and sealed again: each is refused in one paragraph, under limits.

Where the manifest or a link is wrong, `inspect` refuses; where the content is, `transcribe` does, before or while the
graphs are loaded.
"""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from crafting import DEEP, Crafted, tensors
from limits import assert_refused, run_limited

from whisper2max.artifact.manifest import FORMAT_VERSION
from whisper2max.samples import SPEECH

VERSION = f'"format_version": {FORMAT_VERSION}'
HOSTNAME = Path("/etc/hostname")
OUTSIDE = {"sha256": hashlib.sha256(HOSTNAME.read_bytes()).hexdigest(), "bytes": HOSTNAME.stat().st_size}


def listed(name, record):
    return lambda crafted: crafted.change_manifest(lambda manifest: manifest["files"].update({name: record}))


def field(**changes):
    return lambda crafted: crafted.change_manifest(lambda manifest: manifest.update(changes), hashes=True)


def dims(**changes):
    return lambda crafted: crafted.change_manifest(lambda manifest: manifest["dims"].update(changes), hashes=True)


def manifest_text(old, new):
    def change(crafted):
        text = crafted.read("manifest.json").decode()
        assert text.count(old) == 1
        crafted.put("manifest.json", text.replace(old, new))

    return change


def without(name):
    def change(crafted):
        (crafted.path / name).unlink()
        crafted.change_manifest(lambda manifest: manifest["files"].pop(name))

    return change


def linked(name):
    """A link to the very same file elsewhere, in its place."""

    def change(crafted):
        elsewhere = crafted.path.parent / "elsewhere"
        (crafted.path / name).rename(elsewhere)
        (crafted.path / name).symlink_to(elsewhere)

    return change


def pipe(name):
    def change(crafted):
        (crafted.path / name).unlink()
        os.mkfifo(crafted.path / name)

    return change


def many_keys(crafted):
    keys = ",".join(f'"k{number}":0' for number in range(60_000))
    crafted.put("manifest.json", f'{{{keys},"k0":1}}')


def extra_of_a_size_that_is_true(crafted):
    crafted.put("extra.txt", "x")
    listed("extra.txt", {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": True})(crafted)


def file_named(name):
    return lambda crafted: open(os.path.join(os.fsencode(crafted.path), name), "w").close()


def deep_directories(crafted):
    descriptor = os.open(crafted.path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("a", dir_fd=descriptor)
        below = os.open("a", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def many_files(crafted):
    (crafted.path / "many").mkdir()
    for number in range(10_001):
        (crafted.path / "many" / str(number)).touch()


def long_manifest(crafted):
    crafted.put("manifest.json", '{"a":"')
    os.truncate(crafted.path / "manifest.json", 300 << 20)


ESCAPES = "\x1b]0;pwned\x07\x1b[2J\x1b[31mVERIFIED BY OPENAI\x1b[0m"

OF_THE_MANIFEST = {
    "dotdot": (listed("../../../../../etc/hostname", OUTSIDE), "'../../.*hostname' is not the name of a file inside"),
    "absolute": (listed("/etc/hostname", OUTSIDE), "'/etc/hostname' is not the name of a file inside"),
    "symlink_file": (linked("generation.json"), "generation.json is a symbolic link"),
    "symlink_dir": (linked("kernels"), "kernels is a symbolic link"),
    "symlink_manifest": (linked("manifest.json"), "manifest.json is not a regular file"),
    "dupkeys": (manifest_text('"verified": true', '"verified": true, "verified": true'), "duplicate key 'verified'"),
    "dupkeys_many": (many_keys, "duplicate key 'k0'"),
    "nan": (manifest_text('"verified": true', '"verified": NaN'), "NaN is not a finite number"),
    "hugeint": (manifest_text(VERSION, '"format_version": ' + "9" * 10_000), "not valid JSON"),
    "longint": (manifest_text(VERSION, '"format_version": ' + "9" * 4000), "upgrade whisper2max"),
    "hugefloat": (manifest_text(VERSION, '"format_version": 1e999'), "1e999 is not a finite number"),
    "floatversion": (manifest_text(VERSION, '"format_version": 4.0'), r"format_version 4\.0"),
    "deepjson": (lambda crafted: crafted.put("manifest.json", DEEP), "nested too deeply"),
    "nonutf8": (lambda crafted: crafted.put("manifest.json", b'{"name":"\xff\xfe"}'), "not valid JSON"),
    "bom": (lambda crafted: crafted.put("manifest.json", b"\xef\xbb\xbf" + crafted.read("manifest.json")), "BOM"),
    "list": (lambda crafted: crafted.put("manifest.json", "[]"), "holds a JSON list, expected an object"),
    "empty": (lambda crafted: crafted.put("manifest.json", ""), "not valid JSON"),
    "surrogate_name": (field(name="evil\ud800"), "surrogates not allowed"),
    "escape_name": (field(name=ESCAPES), "name holds characters that cannot be shown"),
    "escape_key": (field(**{"parity": {"\x1b[2J": 1}}), r"parity\.\\x1b\[2J holds characters that cannot be shown"),
    "negbytes": (listed("generation.json", {"sha256": "0" * 64, "bytes": -1}), "without a sha256 and a size"),
    "boolbytes": (extra_of_a_size_that_is_true, "'extra.txt' is recorded without a sha256 and a size"),
    "hugebytes": (listed("generation.json", {"sha256": "0" * 64, "bytes": 10**30}), "more bytes than such a file"),
    "nonutf8_graphtxt": (lambda crafted: crafted.change_file("graph.txt", b"\xff\xfe\0bad"), "graph.txt is not text"),
    "unlisted_nonutf8_file": (file_named(b"\xff\xfeevil"), r"\\udcff\\udcfeevil is not listed"),
    "unlisted_escape_file": (file_named(b"\x1b[31mevil\n\x1b[0m"), r"\\x1b\[31mevil\\n\\x1b\[0m is not listed"),
    "fifo_file": (pipe("generation.json"), "generation.json is not a regular file"),
    "fifo_manifest": (pipe("manifest.json"), "manifest.json is not a regular file"),
    "deepdirs": (deep_directories, "directories in each other"),
    "manyfiles": (many_files, "holds more than 10,000 files"),
    "dims_str": (dims(n_mels="80"), "n_mels is '80'"),
    "dims_extra": (dims(x=1), "not the ten integers"),
    "dims_huge_vocab": (dims(n_vocab=10**12), "n_vocab is above 1048576"),
    "dims_long": (dims(n_vocab=10**4000), "n_vocab is above 1048576"),
    "dtype_list": (field(dtype=["float32"]), "dtype is of type list"),
    "source_list": (field(source=[]), "source is of type list"),
    "request_list": (field(source={"format": "x", "name": "x", "request": [1]}), "source.request is neither null nor"),
    "no_graph_listed": (without("step.mef"), "step.mef not listed"),
    "manifest_1gb_string": (long_manifest, "314,572,800 bytes; no such file"),
}


def header_text(text, data=b""):
    return lambda crafted: crafted.change_file("weights.safetensors", len(text).to_bytes(8, "little") + text + data)


def header(change):
    return lambda crafted: crafted.change_header(change)


def overlapping(entries, data):
    first, second, *_ = (entry for entry in tensors(entries) if entry["shape"] == [32])
    second["data_offsets"] = first["data_offsets"]


def moved(begin):
    def change(entries, data):
        entry = next(tensors(entries))
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        start = begin if begin is not None else len(data) - 4
        entry["data_offsets"] = [start, start + size]

    return change


def drop_the_last(entries, data):
    *_, last = tensors(entries)
    name = next(name for name, entry in entries.items() if entry is last)
    del entries[name], data[last["data_offsets"][0] :]


def add_one(entries, data):
    entries["evil"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    data += bytes(4)


def rename(entries, data):
    entries["encoder.conv1.evil\x1b[2J"] = entries.pop("encoder.conv1.bias")


def reshape(entries, data):
    entry = next(entry for entry in tensors(entries) if len(entry["shape"]) == 1)
    entry["shape"] = [1, *entry["shape"]]


def shorter(entries, data):
    entry = entries["decoder.positional_embedding"]
    begin = entry["data_offsets"][0]
    entry["shape"] = [1, entry["shape"][1]]
    entry["data_offsets"] = [begin, begin + 4 * entry["shape"][1]]


def set_first(**changes):
    return lambda entries, data: next(tensors(entries)).update(changes)


def generation(**changes):
    return lambda crafted: crafted.change_json("generation.json", lambda content: content.update(changes))


def no_suppress_tokens(crafted):
    crafted.change_json("generation.json", lambda content: content.pop("suppress_tokens"))


def odd_token(crafted):
    crafted.change_json("tokenizer.json", lambda content: content["added_tokens"][0].update(content=["x"]))


def file(name, content):
    return lambda crafted: crafted.change_file(name, content)


def swapped(name, other):
    return lambda crafted: crafted.change_file(name, crafted.read(other))


def half(name):
    return lambda crafted: crafted.change_file(name, crafted.read(name)[: len(crafted.read(name)) // 2])


def graph_text(old, new):
    def change(crafted):
        text = crafted.read("graph.txt").decode()
        assert old in text
        crafted.change_file("graph.txt", text.replace(old, new))

    return change


def other_dims_everywhere(crafted):
    """A text context of 449 in the manifest, in graph.txt and in the weights: the graphs alone know better."""

    def one_more_row(entries, data):
        entry = entries["decoder.positional_embedding"]
        begin, end = entry["data_offsets"]
        row = 4 * entry["shape"][1]
        entry["shape"][0] += 1
        data[end:end] = bytes(row)
        for other in tensors(entries):
            if other["data_offsets"][0] >= end:
                other["data_offsets"] = [each + row for each in other["data_offsets"]]
        entry["data_offsets"] = [begin, end + row]

    crafted.change_header(one_more_row)
    graph_text("n_text_ctx=448", "n_text_ctx=449")(crafted)
    graph_text("Positions(rows=448", "Positions(rows=449")(crafted)
    dims(n_text_ctx=449)(crafted)


OF_THE_CONTENT = {
    "st_overlap": (header(overlapping), "where the tensor before it ends"),
    "st_negative": (header(moved(-8)), "no dtype, shape and offsets that agree"),
    "st_huge_offset": (header(moved(10**30)), "where the tensor before it ends"),
    "st_past_end": (header(moved(None)), "where the tensor before it ends"),
    "st_header_len_2e63": (file("weights.safetensors", (2**63 - 1).to_bytes(8, "little") + b"{}"), "within its header"),
    "st_empty": (file("weights.safetensors", b""), "within its header"),
    "st_3bytes": (file("weights.safetensors", b"abc"), "within its header"),
    "st_deep": (header_text(DEEP.encode()), "header of weights.safetensors is not usable JSON"),
    "st_list": (header_text(b"[]      "), "holds a JSON list"),
    "st_missing_tensor": (header(drop_the_last), r"weights.safetensors is not of this graph: \S+ is missing"),
    "st_one_too_many": (header(add_one), "evil is not in graph.txt"),
    "st_renamed": (header(rename), r"encoder.conv1.bias is missing; encoder.conv1.evil\\x1b\[2J is not in graph.txt"),
    "st_wrong_shape": (header(reshape), r"is float32 \[1, \d+\], expected float32 \[\d+\]"),
    "st_shorter_tensor": (header(shorter), "where the tensor before it ends"),
    "st_other_dtype": (header(set_first(dtype="I32")), r"is int32 \[.*\], expected float32"),
    "st_unknown_dtype": (header(set_first(dtype="F8_E4M3")), "no dtype, shape and offsets that agree"),
    "st_odd_entry": (header(set_first(shape=[True, 1.5, "2"])), "no dtype, shape and offsets that agree"),
    "st_many_axes": (header(set_first(shape=[1] * 100)), "no dtype, shape and offsets that agree"),
    "st_metadata": (header(lambda entries, data: entries.update(__metadata__=[1])), "metadata are not texts"),
    "st_tail": (header(lambda entries, data: data.extend(b"x" * 8)), "the tensors end at .* and the file at"),
    "gen_missing_key": (no_suppress_tokens, "suppress_tokens is not there"),
    "gen_id_out_of_range": (generation(suppress_tokens=[10**9]), "suppress_tokens must be"),
    "gen_id_negative": (generation(suppress_tokens=[-5]), "suppress_tokens must be"),
    "gen_strings": (generation(suppress_tokens=["a"]), "suppress_tokens must be"),
    "gen_all_suppressed": (generation(suppress_tokens=list(range(51865))), "suppresses every token of text"),
    "gen_other_special": (generation(special_tokens={"eot": 3}), "special_tokens must be"),
    "gen_mel": (generation(mel={"n_mels": 128}), "mel must be"),
    "gen_heads": (generation(alignment_heads=[[99, 0]]), "alignment_heads must be"),
    "gen_deep": (file("generation.json", DEEP), "generation.json is not usable JSON"),
    "tok_empty": (file("tokenizer.json", "{}"), "tokenizer.json"),
    "tok_deep": (file("tokenizer.json", DEEP), "tokenizer.json is not usable JSON"),
    "tok_content_list": (odd_token, "tokenizer.json"),
    "tok_no_vocab_match": (dims(n_vocab=51864), "n_vocab 51864 and 51865.*tokenizer.json"),
    "dims_heads4": (dims(n_text_head=4), "different models: n_text_head 4 and 2"),
    "dims_ctx_449": (dims(n_text_ctx=449), "different models: n_text_ctx 449 and 448"),
    "dims_ctx_100": (dims(n_text_ctx=100), "n_text_ctx 100 and 448"),
    "dims_layer_7": (dims(n_text_layer=7), "n_text_layer 7 and 2"),
    "dims_audio_ctx_1000": (dims(n_audio_ctx=1000), "n_audio_ctx 1000 and 1500"),
    "dims_mels_128": (dims(n_mels=128), "n_mels 128 and 80"),
    "dims_state_1024": (dims(n_text_state=1024, n_audio_state=1024), "n_audio_state 1024 and 32"),
    "dims_everywhere": (
        other_dims_everywhere,
        r"compiled graphs are not of this model: extend.mef takes .*\[\?, 2, 448, 32\].* expected .*\[\?, 2, 449, 32\]",
    ),
    "graph_deep": (graph_text("dtype = 'float32'", "dtype = " + "-" * 900 + "1"), "line 2 of the graph text"),
    "graph_long": (graph_text("dtype = 'float32'", "dtype = '" + "x" * 2000 + "'"), "line 2 of the graph text"),
    "graph_call": (graph_text("bias=True", "bias=__import__('os')"), "cannot be read"),
    "graph_packed": (graph_text("packed='float32'", "packed='evil'"), "packed is 'evil'"),
    "graph_eps": (graph_text("eps=1e-05", "eps='x'"), "eps is 'x'"),
    "graph_other_format": (graph_text("bias=True, packed='float32'", "bias=True, packed='int8'"), "another dtype than"),
    "graph_empty": (file("graph.txt", ""), "does not say dims and dtype"),
    "mef_garbage": (file("encoder.mef", b"\0garbage" * 100), "encoder.mef cannot be loaded with these weights"),
    "mef_empty": (file("encoder.mef", b""), "encoder.mef is empty"),
    "mef_truncated": (half("encoder.mef"), "encoder.mef cannot be loaded with these weights"),
    "mef_swapped": (swapped("encoder.mef", "step.mef"), "not of this model: encoder.mef takes int64"),
    "dtype_lie": (field(dtype="int8"), "different models: dtype int8 and 'float32'"),
    "dtype_unknown": (field(dtype="evil"), "dtype is 'evil'"),
    "no_step": (without("step.mef"), "step.mef not listed"),
    "no_weights": (without("weights.safetensors"), "weights.safetensors not listed"),
}


@pytest.fixture
def crafted(small_artifact, tmp_path):
    yield Crafted(small_artifact.path, tmp_path / "crafted")
    # Python's own way of removing a tree, which pytest takes too, ends at a thousand directories in each other
    subprocess.run(["rm", "-rf", tmp_path / "crafted"], check=True)


@pytest.mark.parametrize("case", OF_THE_MANIFEST)
def test_a_wrong_manifest_or_file_list_is_refused_by_inspect(crafted, case):
    change, pattern = OF_THE_MANIFEST[case]
    change(crafted)
    outcome = run_limited(["inspect", crafted.path])
    message = assert_refused(outcome, pattern, "crafted")
    assert outcome.stdout == "" and "\x1b" not in message


@pytest.mark.parametrize("case", OF_THE_CONTENT)
def test_wrong_content_is_refused_by_transcribe(crafted, case):
    change, pattern = OF_THE_CONTENT[case]
    change(crafted)
    outcome = run_limited(["transcribe", crafted.path, SPEECH])
    assert_refused(outcome, pattern)
    assert outcome.stdout == ""


def test_hard_links_are_files_like_others(crafted):
    outcome = run_limited(["inspect", crafted.path, "--json"])
    assert outcome.status == 0 and outcome.stderr == ""
    assert json.loads(outcome.stdout)["kind"] == "artifact"


def test_a_resealed_artifact_without_a_fault_is_accepted(crafted):
    """The cases are refused for what they change, not for being sealed again."""
    crafted.change_json("generation.json", lambda content: None)
    crafted.change_header(lambda entries, data: None)
    crafted.change_manifest(lambda manifest: manifest.update(name="another"))
    assert run_limited(["inspect", crafted.path]).status == 0


def test_what_is_far_too_deep_is_never_replaced(crafted):
    deep_directories(crafted)
    outcome = run_limited(["convert", "--checkpoint", "absent", "--output", crafted.path, "--force"])
    assert_refused(outcome, "is not an artifact, so it is never overwritten")
