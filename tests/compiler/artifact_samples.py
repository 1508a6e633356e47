"""Small artifacts without a model in them, for the tests of opening, publishing and caching."""

from importlib import metadata

from whisper2max.artifact import write_manifest

DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 64,
    "n_audio_head": 2,
    "n_audio_layer": 1,
    "n_vocab": 51865,
    "n_text_ctx": 448,
    "n_text_state": 64,
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
        "parity": {"passed": True},
    }
    return fields | changes


def write_files(directory, content="sample"):
    """Files of the kinds that an artifact has; `content` tells one artifact's files from another's."""
    for name in (
        "model.py",
        "kernels/attention.mojo",
        "tokenizer.json",
        "parity.html",
        "encoder.mef",
        "step.mef",
    ):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} of {content}\n")
    (directory / "generation.json").write_text('{"format_version": 1}\n')
    (directory / "parity.json").write_text('{"passed": true}\n')
    (directory / "weights.safetensors").write_bytes(content.encode() * 1000)


def write_artifact(directory, content="sample", **changes):
    directory.mkdir(parents=True, exist_ok=True)
    write_files(directory, content)
    write_manifest(directory, manifest_fields(name=content, **changes))
    return directory


def contents(directory):
    """Every file under a directory by relative name."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
