"""300 seeded corruptions, over every kind of checkpoint and every file of an artifact.

Each ends with exit status 2 and one paragraph, or is found by the comparison (1): never in a traceback, a crash, a
hang, more than 4 GiB, an executed payload, or a published artifact. Each is made from its number alone, the same
everywhere.
"""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from corruptions import OF_ARTIFACTS, OF_SOURCES
from crafted_checkpoints import Bench, former_tokenizer, toy_checkpoint
from crafting import Crafted
from limits import MEMORY, assert_refused, run_limited
from safetensors.torch import save_file
from small_models import VARIANTS, transformers_module

import whisper2max
from whisper2max.checkpoints import from_module

SOURCES, ARTIFACTS, TO_THE_COMPARISON = 180, 117, 3


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """By kind of source: a directory that is not to be changed, and what in it is the checkpoint."""
    toy, shared = toy_checkpoint(), tmp_path_factory.mktemp("shared")

    def bench() -> Bench:
        return Bench(toy, tmp_path_factory.mktemp("source"), shared)

    def with_settings(**files):
        stated = {"generation_config.json": {"suppress_tokens": [1, 2]}}
        return bench().huggingface({**stated, "preprocessor_config.json": {"feature_size": 80}, **files})

    state = bench().state
    shards = {f"model-0000{1 + part}-of-00002.safetensors": list(state)[part::2] for part in range(2)}
    return {
        "openai": (bench().whisper_pt().parent, "model.pt"),
        "huggingface": (with_settings(), ""),
        "sharded": (
            with_settings(
                **{"model.safetensors": None, "model.safetensors.index.json": weight_map(shards)},
                **{name: saved({key: state[key] for key in names}) for name, names in shards.items()},
            ),
            "",
        ),
        "pickle": (with_settings(**{"model.safetensors": None, "pytorch_model.bin": pickled(state)}), ""),
        "ctranslate2": (bench().ctranslate2(), ""),
        "tokenizer": (with_settings(), ""),
        "former tokenizer": (with_settings(**former_tokenizer(bench())), ""),
    }


def weight_map(shards: dict[str, list[str]]) -> dict:
    return {"weight_map": {key: name for name, names in shards.items() for key in names}}


def saved(tensors: dict[str, torch.Tensor]):
    return lambda path: save_file(tensors, path)


def pickled(state: dict[str, torch.Tensor]):
    return lambda path: torch.save(state, path)


def run_all(numbers, corrupt_and_run, capsys, what: str) -> Counter:
    """Runs corruptions, prints how many of each outcome there were, and reports every one that ended otherwise."""
    outcomes, wrong, slowest, most = Counter(), [], 0.0, 0
    for number in numbers:
        label, outcome, complaint = corrupt_and_run(number)
        slowest, most = max(slowest, outcome.seconds), max(most, outcome.peak_bytes)
        ended = {2: "refused", 1: "failed the comparison"}.get(outcome.status, f"exit status {outcome.status}")
        outcomes[f"{label}: {ended}"] += 1
        if complaint:
            wrong.append(f"corruption {number} ({label}): {complaint}")
    with capsys.disabled():
        print(f"\n{what}: {sum(outcomes.values())} corruptions, longest {slowest:.1f} s, most {most / 2**20:.0f} MiB")
        for ended, count in sorted(outcomes.items()):
            print(f"  {count:4d}  {ended}")
    assert wrong == []
    return outcomes


def complaint_about(outcome, folder: Path, left: list[str]) -> str | None:
    try:
        assert_refused(outcome, after_progress=True)
    except AssertionError as error:
        return str(error)
    found = sorted(path.name for path in folder.iterdir())
    return None if found == left else f"left {found}"


def test_no_corrupted_source_is_converted(sources, tmp_path, capsys):
    kinds = sorted(sources)

    def corrupt_and_run(number: int):
        rng = random.Random(f"source {number}")
        kind = kinds[number % len(kinds)]
        clean, name = sources[kind]
        crafted = Crafted(clean, tmp_path / "crafted")
        # in turn, so that all of them happen
        corruptions = OF_SOURCES[kind]
        corruptions[number // len(kinds) % len(corruptions)](rng, crafted)
        folder = tmp_path / "work"
        folder.mkdir()
        argv = ["convert", "--checkpoint", crafted.path / name, "--output", folder / "converted"]
        # a .pt file has none, and making one takes longer than all the rest
        argv += ["--tokenizer", sources["huggingface"][0] / "tokenizer.json"] if kind == "openai" else []
        outcome = run_limited(argv, cwd=folder)
        complaint = complaint_about(outcome, folder, [])
        shutil.rmtree(folder)
        shutil.rmtree(crafted.path)
        return kind, outcome, complaint

    outcomes = run_all(range(SOURCES), corrupt_and_run, capsys, "sources")
    assert {label.split(":")[0] for label in outcomes} == set(OF_SOURCES)


def test_no_corrupted_artifact_is_opened(small_artifact, tmp_path, capsys):
    kinds = sorted(OF_ARTIFACTS.keys() - {"to the comparison"})
    # two of three are damage, the others are what someone made fit
    turns = [*(["not sealed"] * (len(kinds) - 1)), *(kind for kind in kinds if kind != "not sealed")]

    def corrupt_and_run(number: int):
        rng = random.Random(f"artifact {number}")
        kind = turns[number % len(turns)]
        crafted = Crafted(small_artifact.path, tmp_path / "crafted")
        rng.choice(OF_ARTIFACTS[kind])(rng, crafted)
        folder = tmp_path / "work"
        folder.mkdir()
        outcome = run_limited(["inspect", crafted.path], cwd=folder)
        complaint = complaint_about(outcome, folder, [])
        shutil.rmtree(folder)
        shutil.rmtree(crafted.path)
        return kind, outcome, complaint

    run_all(range(ARTIFACTS), corrupt_and_run, capsys, "artifacts")


def test_no_corrupted_weight_passes_the_comparison(small_artifact, tmp_path, capsys):
    module = transformers_module(VARIANTS["multilingual_80_mels"], seed=3)
    module.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "checkpoint/tokenizer.json").write_bytes(from_module(module).tokenizer_json)

    def corrupt_and_run(number: int):
        rng = random.Random(f"weight {number}")
        crafted = Crafted(small_artifact.path, tmp_path / "crafted")
        rng.choice(OF_ARTIFACTS["to the comparison"])(rng, crafted)
        argv = ["verify", crafted.path, "--checkpoint", tmp_path / "checkpoint"]
        outcome = run_limited(argv, cwd=tmp_path, seconds=60)
        passed = outcome.status != 1 or "Traceback" in outcome.stderr or outcome.peak_bytes > MEMORY
        shutil.rmtree(crafted.path)
        return "weight", outcome, outcome.stderr[-2000:] if passed else None

    run_all(range(TO_THE_COMPARISON), corrupt_and_run, capsys, "the comparison")
    assert whisper2max.verify(small_artifact.path, module=module).passed, "the corruptions were not what failed"
