"""`import whisper2max` is light, and its public names stay what they are."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "jinja2", "max", "huggingface_hub", "numpy")


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module", ["whisper2max", "whisper2max.runtime", "whisper2max.cli.main", "whisper2max.samples"]
)
def test_importing_loads_nothing_heavy(module: str):
    heavy = run(f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))")
    assert heavy == ""


def test_the_runtime_never_loads_the_converter():
    modules = "audio, decoding, engine, features, model, tokens, transcribe, writers"
    heavy = f"*(name for name in {HEAVY[:3]} if name in sys.modules)"
    code = f"import sys; from whisper2max.runtime import {modules}; print({heavy})"
    assert run(code) == ""


def test_public_functions_are_not_shadowed_by_submodules():
    code = (
        "import whisper2max, importlib, pkgutil\n"
        "import whisper2max.conversion, whisper2max.verification, whisper2max.runtime.model\n"
        "names = whisper2max.__all__\n"
        "submodules = {module.name for module in pkgutil.iter_modules(whisper2max.__path__)}\n"
        "print(*sorted(submodules & set(names)), *(n for n in ('convert', 'load', 'verify') "
        "if type(getattr(whisper2max, n)).__name__ != 'function'))"
    )
    assert run(code) == ""


def test_every_public_name_exists():
    assert run(
        "from whisper2max import *; print(convert.__module__, verify.__module__, load.__module__)"
    ) == ("whisper2max.conversion whisper2max.verification whisper2max.runtime.model")


def test_an_unknown_name_is_an_attribute_error():
    import whisper2max

    with pytest.raises(AttributeError, match="'whisper2max' has no attribute 'transcribe'"):
        _ = whisper2max.transcribe


def test_the_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    import whisper2max

    assert whisper2max.__version__ == version("whisper2max")
