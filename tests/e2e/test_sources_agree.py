"""One set of weights in every format: the same model.py and the same weights, whatever they came from."""

import copy
import functools
import json
import shutil
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import pytest
import torch
import whisper.model
from checkpoint_writers import Writers, openai_state, tokenizers_parsed_once
from goldens import as_golden, golden_file
from small_models import VARIANTS

from whisper2max.checkpoints import from_module, open_checkpoint, random_checkpoint
from whisper2max.conversion import write_sources

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SETTINGS = {"suppress_tokens": [7, 8, 50000], "begin_suppress_tokens": [220], "alignment_heads": [[0, 1], [1, 0]]}


def huggingface(**layout):
    return lambda write, original, dtype: open_checkpoint(write.huggingface(original, dtype, **layout))


def openai_file(write, original, dtype):
    return open_checkpoint(write.openai(original, dtype))


def ctranslate2(write, original, dtype, config=None):
    return open_checkpoint(write.ctranslate2(original, dtype, config=config))


def transformers_module(write, original, dtype, settings=None):
    module = copy.deepcopy(original.module).to(dtype)
    for name, value in (settings or {}).items():
        setattr(module.generation_config, name, value)
    return from_module(module)


def openai_module(write, original, dtype, heads=()):
    dims = whisper.model.ModelDimensions(**original.dims.to_dict())
    module = whisper.model.Whisper(dims)
    module.load_state_dict(openai_state(original.module, original.dims), strict=True)
    if heads:
        mask = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
        mask[tuple(zip(*heads, strict=True))] = True
        module.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    return from_module(module.to(dtype))


SOURCES = {
    "huggingface": huggingface(),
    "huggingface_sharded": huggingface(shards=3),
    "huggingface_with_proj_out": huggingface(projection=True),
    "pytorch_model_bin": huggingface(pickle=True),
    "pytorch_model_bin_sharded_with_proj_out": huggingface(pickle=True, projection=True, shards=3),
    "openai_pt": openai_file,
    "ctranslate2": ctranslate2,
    "transformers_module": transformers_module,
    "openai_module": openai_module,
}
# The same, each stating as much about generation as its format can hold; a .pt file holds nothing.
STATING_SOURCES = {
    "huggingface": huggingface(files={"generation_config.json": SETTINGS}),
    "ctranslate2": functools.partial(
        ctranslate2,
        config={
            "suppress_ids": SETTINGS["suppress_tokens"],
            "suppress_ids_begin": SETTINGS["begin_suppress_tokens"],
            "alignment_heads": SETTINGS["alignment_heads"],
        },
    ),
    "transformers_module": functools.partial(transformers_module, settings=SETTINGS),
    "openai_module": functools.partial(openai_module, heads=SETTINGS["alignment_heads"]),
    "openai_pt": openai_file,
}


@pytest.fixture(scope="module", autouse=True)
def each_tokenizer_is_parsed_once():
    with tokenizers_parsed_once():
        yield


@pytest.fixture
def folder(tmp_path):
    """A folder that is emptied at once: every vocabulary takes megabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@functools.cache
def rounded(variant: str, dtype: torch.dtype):
    """A checkpoint whose float32 weights a file of `dtype` holds exactly."""
    checkpoint = random_checkpoint(VARIANTS[variant], seed=7)
    for tensor in checkpoint.module.state_dict().values():
        tensor.copy_(tensor.to(dtype))
    return checkpoint


def artifact_files(folder: Path, checkpoint) -> dict[str, object]:
    """What an artifact of the checkpoint holds, without what generation.json says about its origin."""
    directory = folder / "artifact"
    directory.mkdir()
    write_sources(directory, checkpoint, "float32")
    files = {name: (directory / name).read_bytes() for name in ("model.py", "graph.txt", "tokenizer.json")}
    generation = json.loads((directory / "generation.json").read_text(encoding="utf-8"))
    assert generation.pop("origin").keys() == generation.keys() - {"format_version"}
    return files | {
        "generation.json": generation,
        "weights.safetensors": sha256((directory / "weights.safetensors").read_bytes()).hexdigest(),
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of the rounded float32 module itself, computed once per variant and dtype."""

    @functools.cache
    def files(variant, dtype):
        folder = tmp_path_factory.mktemp("expected")
        files = artifact_files(folder, rounded(variant, dtype))
        shutil.rmtree(folder)
        return files

    return files


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_every_source_of_the_same_weights_gives_the_same_files(folder, expected, source, dtype):
    checkpoint = SOURCES[source](Writers(folder), rounded("multilingual_80_mels", dtype), dtype)
    assert checkpoint.source["stored_dtype"] == str(dtype).removeprefix("torch.")
    assert artifact_files(folder, checkpoint) == expected("multilingual_80_mels", dtype)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_a_wider_file_of_narrow_weights_gives_the_same_files(folder, expected, dtype):
    """Weights that were float16 once and were saved as float32 since."""
    checkpoint = SOURCES["huggingface"](Writers(folder), rounded("multilingual_80_mels", dtype), torch.float32)
    assert artifact_files(folder, checkpoint) == expected("multilingual_80_mels", dtype)


def test_rounding_tells_the_weights_apart_and_nothing_else(expected):
    by_dtype = [expected("multilingual_80_mels", dtype) for dtype in DTYPES]
    assert len({files["weights.safetensors"] for files in by_dtype}) == len(DTYPES)
    first, *others = [files | {"weights.safetensors": None} for files in by_dtype]
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    "source",
    ["huggingface_sharded", "huggingface_with_proj_out", "pytorch_model_bin"]
    + ["openai_pt", "ctranslate2", "transformers_module", "openai_module"],
)
@pytest.mark.parametrize("variant", ["large_v3_128_mels", "turbo_unequal_depth"])
def test_random_checkpoints_of_other_dimensions_agree_too(folder, expected, source, variant):
    """128 mels and 51866 tokens, with equal and with unequal depth of encoder and decoder."""
    checkpoint = SOURCES[source](Writers(folder), rounded(variant, torch.float16), torch.float16)
    assert checkpoint.dims == VARIANTS[variant]
    files = artifact_files(folder, checkpoint)
    assert files == expected(variant, torch.float16)
    golden = golden_file(variant).read_text(encoding="utf-8")
    assert as_golden(variant, files["model.py"].decode()) == golden


@pytest.fixture(scope="module")
def generations(tmp_path_factory):
    """What generation.json holds for every source that states settings."""
    original = rounded("multilingual_80_mels", torch.float16)
    found = {}
    for name, source in STATING_SOURCES.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = source(Writers(folder), original, torch.float16).generation
        shutil.rmtree(folder)
    return found


def test_generation_differs_only_where_origin_says_so(generations):
    for (first, ours), (second, theirs) in combinations(generations.items(), 2):
        assert ours.keys() == theirs.keys()
        differing = {name for name in ours if name != "origin" and ours[name] != theirs[name]}
        explained = {name for name in ours["origin"] if ours["origin"][name] != theirs["origin"][name]}
        assert differing <= explained, f"{first} and {second}"


@pytest.mark.parametrize(
    ("source", "origin", "stated"),
    [
        ("huggingface", "generation_config.json", SETTINGS),
        ("ctranslate2", "CTranslate2's config.json", SETTINGS),
        ("transformers_module", "generation_config of the module", SETTINGS),
        ("openai_module", "alignment_heads of the module", {"alignment_heads"}),
        ("openai_pt", None, set()),
    ],
)
def test_generation_says_what_was_stated_and_what_was_derived(generations, source, origin, stated):
    generation, derived = generations[source], rounded("multilingual_80_mels", torch.float16).generation
    for name, value in SETTINGS.items():
        if name in stated:
            assert (generation[name], generation["origin"][name]) == (value, origin)
        else:
            assert generation[name] == derived[name]
            assert generation["origin"][name] == derived["origin"][name]
