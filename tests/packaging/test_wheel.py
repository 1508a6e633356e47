"""What `pip install whisper2max` brings: every module, kernel and template, the sample, and nothing else."""

import configparser
import email
import re
import zipfile
from pathlib import Path

import pytest

FOLDERS = {
    "whisper2max": "compiler/whisper2max",
    "whisper2max/kernels": "kernels",
    "whisper2max/runtime": "runtime",
    "whisper2max/samples": "samples",
    "whisper2max/templates": "templates",
}
SUFFIXES = {".py", ".mojo", ".j2", ".flac"}


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """Paths of the files in the wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> dict[str, str]:
    """Texts of the metadata files by their name."""
    with zipfile.ZipFile(wheel) as archive:
        inside = (name for name in archive.namelist() if ".dist-info/" in name)
        return {name.split(".dist-info/")[1]: archive.read(name).decode() for name in inside}


def test_the_wheel_holds_every_source_file_and_nothing_else(repository: Path, names: set[str]):
    expected = {
        f"{package}/{path.relative_to(repository / folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in (repository / folder).rglob("*")
        if path.suffix in SUFFIXES
    }
    assert names == expected


@pytest.mark.parametrize("suffix, folder", [(".mojo", "kernels"), (".j2", "templates"), (".flac", "samples")])
def test_data_files_travel_with_their_package(names: set[str], suffix: str, folder: str):
    assert [name for name in names if name.startswith(f"whisper2max/{folder}/") and name.endswith(suffix)]


def test_every_folder_of_modules_is_a_package(names: set[str]):
    folders = {str(Path(name).parent) for name in names if name.endswith(".py")}
    assert sorted(folder for folder in folders if f"{folder}/__init__.py" not in names) == []


def test_the_command_is_installed(metadata: dict[str, str]):
    entry_points = configparser.ConfigParser()
    entry_points.read_string(metadata["entry_points.txt"])
    assert dict(entry_points["console_scripts"]) == {"whisper2max": "whisper2max.cli.main:main"}


def test_the_runtime_requires_no_converter(metadata: dict[str, str]):
    requirements = email.message_from_string(metadata["METADATA"]).get_all("Requires-Dist")
    base = {re.match(r"[\w.-]+", text)[0].lower() for text in requirements if "extra ==" not in text}
    assert base == {"av", "max", "numpy", "rich", "safetensors", "tokenizers", "typer"}


def test_the_licence_travels_with_it(repository: Path, metadata: dict[str, str]):
    assert metadata["licenses/LICENSE"] == (repository / "LICENSE").read_text()
    assert email.message_from_string(metadata["METADATA"])["License-Expression"] == "Apache-2.0"
