"""pyproject.toml, constraints.txt, pixi.toml and the Makefile describe one environment, one set of tasks."""

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ONLY_IN_MAKEFILE = {"help", "env", "clean"}


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> dict:
    """pyproject.toml, parsed."""
    return tomllib.loads((repository / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pixi(repository: Path) -> dict:
    """pixi.toml, parsed."""
    return tomllib.loads((repository / "pixi.toml").read_text())


@pytest.fixture(scope="module")
def tasks(pixi: dict) -> dict[str, str]:
    """The tasks of pixi.toml, those that need an environment of their own included."""
    return {**pixi["tasks"], **pixi["feature"]["bench"]["tasks"]}


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    """Version of every package in constraints.txt, by canonical name."""
    lines = (repository / "constraints.txt").read_text().splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in requirements if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line)] == []
    assert requirements == sorted(requirements, key=lambda line: line.split("==")[0])
    return dict(line.split("==") for line in requirements)


@pytest.fixture(scope="module")
def direct(pyproject: dict) -> dict[str, Requirement]:
    """Requirements of the project and of all its extras, by canonical name; its own name left out."""
    project = pyproject["project"]
    texts = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    requirements = {canonicalize_name(text.name): text for text in map(Requirement, texts)}
    del requirements["whisper2max"]
    return requirements


def test_constraints_pin_what_pyproject_asks_for(direct: dict[str, Requirement], pins: dict[str, str]):
    unmet = {
        name: str(text) for name, text in direct.items() if not text.specifier.contains(pins.get(name, "0"))
    }
    assert unmet == {}


def test_constraints_pin_the_tested_compiler_and_reference(pins: dict[str, str]):
    assert (pins["max"], pins["mojo"], pins["torch"]) == ("26.7.0", "1.2.0", "2.13.0")


def test_dev_includes_the_other_extras(pyproject: dict):
    extras = pyproject["project"]["optional-dependencies"]
    assert set(extras) == {"convert", "demo", "dev", "bench"}
    assert "whisper2max[convert,demo]" in extras["dev"]
    assert "whisper2max[dev]" in extras["bench"]


def test_pixi_pins_the_same_packages(pixi: dict, direct: dict[str, Requirement], pins: dict[str, str]):
    packages = {**pixi["pypi-dependencies"], **pixi["feature"]["bench"]["pypi-dependencies"]}
    assert packages.pop("whisper2max") == {"path": ".", "editable": True, "extras": ["dev"]}
    assert {canonicalize_name(name): pin for name, pin in packages.items()} == {
        name: f"=={pins[name]}" for name in direct
    }


def test_only_the_bench_environment_of_pixi_has_the_peers(pixi: dict, pyproject: dict):
    peers = map(Requirement, pyproject["project"]["optional-dependencies"]["bench"])
    expected = {canonicalize_name(peer.name) for peer in peers} - {"whisper2max"}
    assert set(pixi["feature"]["bench"]["pypi-dependencies"]) == expected
    assert pixi["environments"] == {"bench": ["bench"]}


def test_pixi_uses_a_supported_python(pixi: dict, pyproject: dict):
    version = pixi["dependencies"]["python"].removesuffix(".*")
    assert Requirement(f"python{pyproject['project']['requires-python']}").specifier.contains(version)


def test_pixi_and_make_have_the_same_tasks(repository: Path, tasks: dict[str, str]):
    makefile = (repository / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets == set(phony.split())
    assert targets - ONLY_IN_MAKEFILE == set(tasks)


def test_pixi_and_make_run_the_same_commands(repository: Path, tasks: dict[str, str]):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    for task, command in tasks.items():
        installed = ["-o", "ENV/.installed", "-o", "ENV/.installed-bench"]
        dry_run = ["make", "--no-print-directory", "-n", *installed, "VENV=ENV", task]
        recipe = subprocess.run(
            dry_run, cwd=repository, env=environment, capture_output=True, text=True, check=True
        )
        by_make = [shlex.split(line.replace("ENV/bin/", "")) for line in recipe.stdout.splitlines()]
        assert [shlex.split(step) for step in command.split(" && ")] == by_make, task


def test_continuous_integration_runs_make(repository: Path):
    script = repository / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    run = re.findall(r"^make .*$", script.read_text(), re.MULTILINE)
    assert run == ["make test", "make test-browser", "make test-long"]
