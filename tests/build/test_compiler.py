"""What a compiled graph is kept under, and for which CPU the compiler is asked."""

import subprocess
from pathlib import Path

import pytest

from whisper2max.artifact.manifest import GRAPHS
from whisper2max.build import compiler as build
from whisper2max.build.compiler import Source
from whisper2max.build.target import Target, resolve
from whisper2max.core.errors import ArtifactError, BuildError
from whisper2max.core.held import HeldFiles

SOURCE = Source(b"BUILDERS = {}\n", {"step.mojo": b"fn step(): pass\n", "tile.mojo": b"fn tile(): pass\n"})


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WHISPER2MAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.fixture
def compiler(monkeypatch):
    """A compiler that writes its last argument into the MEF; it gives what it was started with."""
    started = []

    def compiler(command, **options):
        paths = [Path(command[4]), *Path(command[5]).iterdir()]
        written = {path.name: path.read_bytes() for path in paths}
        started.append((command, options, written))
        Path(command[7]).write_text(command[-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(build.subprocess, "run", compiler)
    return started


def test_the_key_follows_the_features_of_the_target_and_not_its_name():
    targets = [resolve(name) for name in ("x86-64-v2", "x86-64-v3", "x86-64-v4")]
    assert len({SOURCE.key(target) for target in targets}) == 3
    assert SOURCE.key(Target("native", targets[1].cpu_features)) == SOURCE.key(targets[1])


def test_the_key_follows_every_byte_of_the_source():
    target = resolve("native")
    others = [
        Source(b"BUILDERS = {} \n", SOURCE.kernels),
        Source(SOURCE.model_py, {**SOURCE.kernels, "tile.mojo": b"fn tile(): pass"}),
        Source(SOURCE.model_py, {"step.mojo": SOURCE.kernels["step.mojo"]}),
    ]
    assert len({source.key(target) for source in (SOURCE, *others)}) == 4
    assert SOURCE.key(target) != SOURCE.key(target, ["decoder.ln"])
    assert Source(SOURCE.model_py, dict(reversed(SOURCE.kernels.items()))).key(target) == SOURCE.key(target)


def test_a_graph_is_compiled_from_what_it_reaches_and_kept_under_the_key_of_that(compiler):
    model = b"def one(): return 'step'\n\n\ndef two(): return 'tile'\n\n\nBUILDERS = {'one': one, 'two': two}\n"
    kernels = {f"{name}.mojo": f'@extensibility.register("{name}")\n'.encode() for name in ("step", "tile")}
    first = Source(model, kernels)
    changed = Source(model.replace(b"'tile'", b"'tile', 2"), {**kernels, "tile.mojo": kernels["tile.mojo"] * 2})
    for source in (first, changed):
        build.compile_tapped(source, {"one": (), "two": ()}, resolve("native"), lambda message: None)
    given = [(command[6], set(written)) for command, _, written in compiler]
    assert sorted(given) == [("one", {"model.py", "step.mojo"}), *[("two", {"model.py", "tile.mojo"})] * 2]
    assert {entry.key for entry in build.GraphCache().entries()} == {
        first.reached("one").key(resolve("native")),
        *(source.reached("two").key(resolve("native")) for source in (first, changed)),
    }


def test_source_is_read_once_out_of_held_files(tmp_path):
    (tmp_path / "copy").mkdir()
    SOURCE.write(tmp_path / "copy")
    (tmp_path / "copy" / "kernels" / "notes.txt").write_text("not compiled")
    names = ["model.py", *(f"kernels/{name}" for name in ("tile.mojo", "step.mojo", "notes.txt"))]
    files = HeldFiles(tmp_path / "copy", names, ArtifactError)
    assert Source.of(files) == SOURCE
    (tmp_path / "copy" / "kernels" / "tile.mojo").write_text("fn evil(): pass\n")
    with pytest.raises(ArtifactError, match="tile.mojo was changed"):
        Source.of(files)


def test_every_graph_is_compiled_for_the_target_and_kept_apart(compiler):
    targets = {name: (name, "", "") for name in ("x86-64-v3", "x86-64-v2")}
    targets |= {"native": ("", "", ""), "max-cpu": ("", "cpu", ""), "sm_90": ("x86-64-v3", "gpu", "cuda:sm_90a")}
    for name, (cpu, device, gpu) in targets.items():
        kept = build.compile_tapped(SOURCE, {"step": ["decoder.ln"]}, resolve(name), lambda message: None)
        assert kept["step"].read(100).decode() == f"--cpu={cpu}"
        command, places = compiler[-1][0], [f"--gpu={gpu}", f"--device={device}", f"--cpu={cpu}"]
        assert command[6] == "step" and command[8:] == ["decoder.ln", *places]
    assert len(compiler) == len(targets)
    assert {entry.info["target"] for entry in build.GraphCache().entries()} == targets.keys()


def test_what_ships_is_copied_out_of_the_cache(compiler, tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        build.compile_graphs(SOURCE, tmp_path / folder, resolve("native"), lambda message: None)
        assert {path.name for path in (tmp_path / folder).iterdir()} == {f"{name}.mef" for name in GRAPHS}
    assert len(compiler) == len(GRAPHS)


def test_the_compiler_works_in_an_empty_directory_of_its_own_and_searches_none(compiler, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "the/users/choice::/elsewhere")
    build.compile_tapped(SOURCE, {"step": []}, resolve("native"), lambda message: None)
    (command, options, written), = compiler
    assert command[1:4] == ["-P", "-m", "whisper2max.build.compile_graph"]
    assert written == {"model.py": SOURCE.model_py, **SOURCE.kernels}
    assert Path(options["cwd"]).is_absolute() and not Path(options["cwd"]).is_relative_to(tmp_path)
    assert Path(options["cwd"]).parent == Path(command[7]).parent
    # a relative entry means what it means here; an empty one would be the working directory
    assert options["env"]["PYTHONPATH"] == f"{tmp_path}/the/users/choice:/elsewhere"


def test_a_failure_shows_what_the_compiler_said(monkeypatch):
    def fails(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "line 1\nline 2 \x1b[2J\n")

    monkeypatch.setattr(build.subprocess, "run", fails)
    with pytest.raises(BuildError, match=r"(?s)'step' did not compile \(exit status 1\):.line 1.line 2 \\x1b\[2J$"):
        build.compile_tapped(SOURCE, {"step": []}, resolve("native"), lambda message: None)


def test_a_compiler_that_is_killed_says_why_it_may_be(monkeypatch):
    monkeypatch.setattr(build.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, -9, "", ""))
    with pytest.raises(BuildError, match=r"(?s)\(exit status -9\):.*It was killed, as the system does where memory"):
        build.compile_tapped(SOURCE, {"step": []}, resolve("native"), lambda message: None)
