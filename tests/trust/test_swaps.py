"""Files that change at each point between being checked and being used: refused, and nothing is marked or published."""

import json
import os
import shutil
from itertools import product
from pathlib import Path
from pkgutil import resolve_name

import pytest
from artifact_samples import contents
from small_models import VARIANTS, transformers_module

import whisper2max
from whisper2max.artifact.artifact import open_artifact
from whisper2max.artifact.manifest import write_manifest
from whisper2max.build.cache import GraphCache
from whisper2max.build.compiler import Source, compile_graphs, compile_tapped
from whisper2max.build.rebuild import rebuild
from whisper2max.build.target import resolve
from whisper2max.checkpoints import from_module
from whisper2max.cli.inspection import inspect
from whisper2max.core.errors import ArtifactError, CheckpointError
from whisper2max.parity.comparison import compare_with
from whisper2max.parity.html import REPORTS
from whisper2max.parity.report import Findings, ParityReport


def in_place(path: Path) -> None:
    """Other bytes in the same file."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        before = file.read(4)
        file.seek(-len(before), os.SEEK_CUR)
        file.write(bytes(byte ^ 1 for byte in before))


def replaced(path: Path) -> None:
    """Another file under the same name."""
    other = path.with_name("other")
    shutil.copyfile(path, other)
    in_place(other)
    os.replace(other, path)


def shortened(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


SWAPS = [in_place, replaced]


@pytest.fixture
def after(monkeypatch):
    """Lets something happen when a function of the package has returned for the first time."""

    def hook(target: str, happen) -> None:
        real = resolve_name(f"whisper2max.{target}")
        happened = []

        def hooked(*arguments, **options):
            result = real(*arguments, **options)
            if not happened:
                happened.append(True)
                happen()
            return result

        monkeypatch.setattr(f"whisper2max.{target}", hooked)

    return hook


@pytest.fixture
def artifact(small_artifact, tmp_path) -> Path:
    shutil.copytree(small_artifact.path, tmp_path / "artifact")
    return tmp_path / "artifact"


@pytest.fixture
def unverified(artifact) -> Path:
    """As `compile` leaves it."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    for name in REPORTS:
        (artifact / name).unlink()
    write_manifest(artifact, {**manifest, "verified": False, "parity": None})
    return artifact


@pytest.fixture(scope="module")
def module():
    return transformers_module(VARIANTS["multilingual_80_mels"], seed=3)


@pytest.fixture(scope="module")
def report(small_artifact, module) -> ParityReport:
    """A comparison that passed."""
    report = whisper2max.verify(small_artifact.path, module=module)
    assert report.passed
    return report


@pytest.fixture(scope="module")
def checkpoint(module):
    """What the module is turned into; its tokenizer is slow to check."""
    return from_module(module)


@pytest.fixture
def proof_passes(monkeypatch, report, checkpoint):
    """The proof, which these tests are not about, takes no time."""
    for command in ("verification", "conversion"):
        monkeypatch.setattr(f"whisper2max.{command}.prove", lambda *arguments, **options: report)
    monkeypatch.setattr("whisper2max.checkpoints.source.from_module", lambda *arguments: checkpoint)


USED = ["weights.safetensors", "step.mef", "tokenizer.json"]
LOADING = ["artifact.artifact.check_hashes", "artifact.artifact.read_contents", "runtime.model.open_artifact"]
MAPPED = "runtime.engine.map_weights"
# Once mapped, a file must not be shortened: reading beyond its end would end the process.
SHORTENED = list(product(LOADING, USED, [shortened]))


@pytest.mark.parametrize(("point", "name", "swap"), [*product([*LOADING, MAPPED], USED, SWAPS), *SHORTENED])
def test_load(artifact, after, point, name, swap):
    after(point, lambda: swap(artifact / name))
    with pytest.raises(ArtifactError, match=f"{name} was changed while it was in use|{name} .*ends within"):
        whisper2max.load(artifact)


def test_load_without_a_swap(artifact, after):
    looked = []
    for point in ("artifact.artifact.check_hashes", "runtime.engine.map_weights"):
        after(point, lambda: looked.append(True))
    whisper2max.load(artifact).close()
    assert looked == [True, True]


@pytest.mark.parametrize("swap", SWAPS)
def test_inspect(artifact, after, swap):
    after("artifact.artifact.check_hashes", lambda: swap(artifact / "graph.txt"))
    with pytest.raises(ArtifactError, match="graph.txt was changed"):
        inspect(artifact)


def test_verify_with_the_real_proof(unverified, module, after):
    before = contents(unverified)
    after("verification.prove", lambda: in_place(unverified / "weights.safetensors"))
    with pytest.raises(ArtifactError, match="weights.safetensors was changed while it was in use"):
        whisper2max.verify(unverified, module=module)
    assert contents(unverified).keys() == before.keys()
    assert (unverified / "manifest.json").read_bytes() == before["manifest.json"]


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("name", ["weights.safetensors", "encoder.mef", "tokenizer.json", "kernels/tile.mojo"])
@pytest.mark.parametrize("point", ["verification.open_artifact", "verification.walk"])
def test_verify_before_the_proof(unverified, module, after, proof_passes, point, name, swap):
    before = (unverified / "manifest.json").read_bytes()
    after(point, lambda: swap(unverified / name))
    with pytest.raises(ArtifactError, match=f"{name} was changed"):
        whisper2max.verify(unverified, module=module)
    assert (unverified / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("point", ["parity.proof.audit", "parity.proof.compare_windows"])
def test_verify_in_the_midst_of_the_proof(unverified, module, after, point):
    after(point, lambda: in_place(unverified / "weights.safetensors"))
    with pytest.raises(ArtifactError, match="weights.safetensors was changed"):
        whisper2max.verify(unverified, module=module)
    assert not json.loads((unverified / "manifest.json").read_text())["verified"]


@pytest.mark.parametrize("point", ["parity.marking.link_files", "parity.marking.write_report"])
def test_verify_on_the_way_to_the_mark(unverified, module, after, proof_passes, point):
    """What is marked has second names for the files that were compared, so a change in place reaches it."""
    after(point, lambda: in_place(unverified / "weights.safetensors"))
    with pytest.raises(ArtifactError, match="weights.safetensors of .* changed between the comparison and"):
        whisper2max.verify(unverified, module=module)
    assert not json.loads((unverified / "manifest.json").read_text())["verified"]


def test_verify_marks_the_very_files_that_were_compared(unverified, module, after, proof_passes):
    compared = (unverified / "weights.safetensors").read_bytes()
    after("parity.marking.link_files", lambda: replaced(unverified / "weights.safetensors"))
    whisper2max.verify(unverified, module=module)
    assert open_artifact(unverified).verified
    assert (unverified / "weights.safetensors").read_bytes() == compared


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("judged", [True, False])
def test_compare(artifact, small_artifact, monkeypatch, swap, judged):
    def compare(*arguments):
        swap(artifact / "weights.safetensors")
        return Findings((), (), (), ())

    monkeypatch.setattr("whisper2max.parity.comparison.compare_windows", compare)
    pair = (artifact, small_artifact.path) if judged else (small_artifact.path, artifact)
    with pytest.raises(ArtifactError, match="artifact/weights.safetensors was changed"):
        compare_with(*pair, [], lambda message: None)


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("name", ["weights.safetensors", "model.py", "kernels/tile.mojo"])
@pytest.mark.parametrize("point", ["build.rebuild.open_artifact", "build.rebuild.compile_graphs"])
def test_compile(artifact, after, point, name, swap):
    before = (artifact / "manifest.json").read_bytes()
    after(point, lambda: swap(artifact / name))
    with pytest.raises(ArtifactError, match=f"{name} (was changed|of .* changed)"):
        rebuild(artifact, lambda message: None)
    assert (artifact / "manifest.json").read_bytes() == before


def test_compile_compiles_what_was_hashed(artifact, after, monkeypatch):
    """Even where the change is undone: the source is read once."""
    compiled = []
    good = (artifact / "model.py").read_bytes()

    def swap_for_a_while():
        in_place(artifact / "model.py")

    def compiler(source, directory, target, say):
        compiled.append(source.model_py)
        return compile_graphs(source, directory, target, say)

    after("build.rebuild.link_files", swap_for_a_while)
    monkeypatch.setattr("whisper2max.build.rebuild.compile_graphs", compiler)
    with pytest.raises(ArtifactError, match="model.py was changed"):
        rebuild(artifact, lambda message: None)
    assert compiled in ([], [good])


CONVERT = {
    "conversion.write_sources": "tokenizer.json",
    "conversion.compile_graphs": "encoder.mef",
    "conversion.prove": "weights.safetensors",
    "conversion.write_report": "model.py",
}


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("point", CONVERT)
def test_convert(small_artifact, module, tmp_path, after, proof_passes, point, swap):
    def happen():
        (staging,) = tmp_path.glob(".artifact.partial-*")
        swap(staging / CONVERT[point])

    after(point, happen)
    with pytest.raises(ArtifactError, match=f"{CONVERT[point]} .*changed"):
        whisper2max.convert(module=module, output=tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("point", ["conversion.write_sources", "conversion.prove"])
def test_convert_out_of_a_checkpoint_that_changes(module, tmp_path, after, proof_passes, point, swap):
    module.save_pretrained(tmp_path / "checkpoint")
    after(point, lambda: swap(tmp_path / "checkpoint" / "model.safetensors"))
    with pytest.raises(CheckpointError, match="model.safetensors was changed"):
        whisper2max.convert(checkpoint=tmp_path / "checkpoint", output=tmp_path / "artifact")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.fixture
def cached(small_artifact, tmp_path, monkeypatch):
    """Features as the one graph, in a cache of its own: source, target, an empty directory, and the graph's entry."""
    source, target = Source.of(small_artifact.files), resolve("native")
    key = source.reached("features").key(target)
    kept = GraphCache().get(key, "features")
    monkeypatch.setenv("WHISPER2MAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("whisper2max.build.compiler.GRAPHS_OF", {"cpu": ("features",)})
    (tmp_path / "made").mkdir()
    return source, target, tmp_path / "made", GraphCache().put(key, "features", kept.path, {}).path


def test_a_cached_graph_that_changes_in_place_is_refused(cached, after):
    source, target, made, entry = cached
    after("build.compiler.GraphCache.get", lambda: in_place(entry))
    with pytest.raises(ArtifactError, match="features.mef was changed"):
        compile_graphs(source, made, target, lambda message: None)


def test_a_cached_graph_that_is_replaced_changes_nothing(cached, after, small_artifact):
    source, target, made, entry = cached
    after("build.compiler.GraphCache.get", lambda: replaced(entry))
    hashes = compile_graphs(source, made, target, lambda message: None)
    assert hashes == {"features.mef": small_artifact.manifest["files"]["features.mef"]["sha256"]}
    assert (made / "features.mef").read_bytes() == (small_artifact.path / "features.mef").read_bytes()


def test_a_tapped_graph_that_changes_in_the_cache_is_not_run(cached):
    from whisper2max.runtime.graphs import load_graph
    from whisper2max.runtime.threads import shared_session

    source, target, _, entry = cached
    kept = compile_tapped(source, {"features": ()}, target, lambda message: None)["features"]
    in_place(entry)
    with pytest.raises(ArtifactError, match="features.mef was changed"):
        load_graph(shared_session(), kept, {})
