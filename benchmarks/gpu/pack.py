"""Packs what a machine with a GPU and without a network needs: python benchmarks/gpu/pack.py ARTIFACT OUT

MAX's runtime for that machine's Python, without the compiler; whisper2max; the artifact, its weights compressed without
loss; recordings, and the tokens that the same weights give in float32 on this CPU. README.md beside this says how to
carry it. Needs pip, its index, and the recorded clips of `make test-long`.
"""

import argparse
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from clips import ROOT, audio_folder  # noqa: E402

from gpu.pieces import split  # noqa: E402
from gpu.planes import compressed  # noqa: E402
from gpu.samples import CLIPS, EXPECTED, SAMPLE, heard_in_turn, recordings  # noqa: E402
from gpu.unpack import PROGRAMS, WEIGHTS  # noqa: E402

# What the runtime side imports besides Python's library and numpy: MAX, what MAX imports, and PyAV.
SITE = ("max", "max-core", "mojo-compiler", "msgspec", "av")
# MAX imports these too; the machine has newer ones, which its other programs were made for.
SPARE = ("psutil", "typing-extensions")
PLATFORMS = ("2_39", "2_35", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17", "2_12", "2_5")
# Of MAX what serves, tests and compiles; libNVPTX makes machine code, which the compiled graphs hold already.
NOT_NEEDED = (
    "max/_interpreter_ops", "max/_kv_core.so", "max/_xgrammar", "max/benchmark", "max/experimental", "max/include",
    "max/nn", "max/pipelines", "max/serve", "max/tests", "modular/bin", "modular/lib/libNVPTX.so",
    "modular/lib/libjemalloc_preload.so", "modular/lib/nixl",
)  # fmt: skip
REFERENCE = ROOT / "artifacts" / "base-max-cpu"
FAST, SMALL = {"preset": 6}, {"preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 28}


def main() -> int:
    """0; whatever is missing ends it with a sentence."""
    asked = arguments()
    started = time.monotonic()
    audio = audio_folder(asked.audio)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tree = work / "tree"
        pack_packages(tree, work / "wheels", asked.python)
        pack_whisper2max(tree / "site")
        scripts = shutil.ignore_patterns("__pycache__", "models", "results")
        shutil.copytree(ROOT / "benchmarks", tree / "benchmarks", ignore=scripts)
        shutil.copytree(asked.artifact, tree / "artifact", ignore=shutil.ignore_patterns("weights.safetensors"))
        pack_samples(tree / "samples", audio, asked.artifact, asked.reference)
        say(f"packages, artifact and samples are together after {time.monotonic() - started:.0f} s; compressing")
        pack_tree(tree, work / PROGRAMS, FAST if asked.fast else SMALL)
        (work / WEIGHTS).write_bytes(compressed((asked.artifact / "weights.safetensors").read_bytes()))
        whole = work / "whole.tar"
        with tarfile.open(whole, "w") as outer:
            for name in (PROGRAMS, WEIGHTS):
                outer.add(work / name, name)
        about = {"python": asked.python, "artifact": asked.artifact.name, "commit": commit()}
        manifest = split(whole, asked.out, **about, versions={name: version(name) for name in SITE})
        for path in (work / PROGRAMS, work / WEIGHTS):
            say(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    for piece in manifest["pieces"]:
        say(f"{asked.out / piece['name']}: {piece['bytes'] / 2**20:.1f} MiB")
    say(f"for Python {asked.python}, in {time.monotonic() - started:.0f} s")
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="compiled for the GPU, such as artifacts/base-bfloat16-sm_90")
    parser.add_argument("out", type=Path, help="folder of the pieces")
    parser.add_argument("--python", default="3.12", help="of the machine; default 3.12")
    parser.add_argument("--fast", action="store_true", help="in half of the time, a tenth larger")
    parser.add_argument("--reference", type=Path, default=REFERENCE, help=f"in float32; default {REFERENCE.name}")
    parser.add_argument("--audio", help="folder of clips; default $WHISPER2MAX_AUDIO, then ../shared/audio")
    asked = parser.parse_args()
    for artifact, how in ((asked.artifact, "--dtype bfloat16 --target sm_90"), (asked.reference, "--target max-cpu")):
        if not (artifact / "manifest.json").exists():
            parser.error(f"there is no artifact at {artifact}: whisper2max convert --size base {how}")
    return asked


def pack_packages(tree: Path, wheels: Path, python: str) -> None:
    """Wheels of the versions that are installed here, for another Python, unpacked and without what is not needed."""
    for folder, names in (("site", SITE), ("spare", SPARE)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", "-d", wheels / folder]
        command += [f"--platform=manylinux_{each}_x86_64" for each in PLATFORMS]
        command += ["--platform=manylinux2014_x86_64", *(f"{name}=={version(name)}" for name in names)]
        subprocess.run(list(map(str, command)), check=True)
        for wheel in sorted((wheels / folder).glob("*.whl")):
            unpack_wheel(wheel, tree / folder)
    for name in NOT_NEEDED:
        path = tree / "site" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # MAX finds its libraries by the program mojo that lies beside them; a file of that name is enough
    mojo = tree / "site" / "modular" / "bin" / "mojo"
    mojo.parent.mkdir(parents=True)
    mojo.touch(mode=0o755)
    for path in [*tree.rglob("*.pyi")]:
        path.unlink()


def unpack_wheel(wheel: Path, folder: Path) -> None:
    """As pip installs one, without scripts; of what is said about it, its version alone."""
    with zipfile.ZipFile(wheel) as file:
        for info in file.infolist():
            parts = Path(info.filename).parts
            if info.is_dir() or (parts[0].endswith(".dist-info") and parts[-1] != "METADATA"):
                continue
            if parts[0].endswith(".data"):
                if parts[1] not in ("platlib", "purelib"):
                    continue
                parts = parts[2:]
            path = folder.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read(info))
            if info.external_attr >> 16 & 0o111:
                path.chmod(0o755)


def pack_whisper2max(site: Path) -> None:
    """The packages that pyproject.toml names, with their data."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = setuptools["package-dir"]
    for package in setuptools["packages"]:
        home = next(name for name in sorted(folders, key=len, reverse=True) if f"{package}.".startswith(f"{name}."))
        source = ROOT.joinpath(folders[home], *package.removeprefix(home).split(".")[1:])
        for pattern in ("*.py", *setuptools["package-data"].get(package, ())):
            copy(source.glob(pattern), source, site.joinpath(*package.split(".")))


def copy(paths: Iterable[Path], source: Path, target: Path) -> None:
    """Copy files, as they lie in a folder, into another."""
    for path in paths:
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)


def pack_samples(folder: Path, audio: Path, artifact: Path, reference: Path) -> None:
    """Recordings, and what the reference hears in them.

    Raises:
        SystemExit: the reference has other weights, or is none.
    """
    import whisper2max

    copy([ROOT / "samples" / SAMPLE], ROOT / "samples", folder)
    copy([audio / clip for clip in CLIPS], audio, folder)
    manifests = [json.loads((path / "manifest.json").read_text(encoding="utf-8")) for path in (artifact, reference)]
    (ours, theirs), dtype = (manifest["source"]["sha256"] for manifest in manifests), manifests[1]["dtype"]
    if ours != theirs or dtype != "float32":
        raise SystemExit(
            f"{reference} cannot say what {artifact} is to hear: it is to have the same checkpoint in float32, "
            f"and has {'the same' if ours == theirs else 'another'} in {dtype}. Name one by --reference."
        )
    with whisper2max.load(reference) as model:
        expected = {name: heard_in_turn(model, recording) for name, recording in recordings(folder).items()}
    of_it = {key: manifests[1][key] for key in ("name", "dtype", "target", "digest", "versions")}
    document = {"reference": of_it, "samples": expected}
    (folder / EXPECTED).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def pack_tree(tree: Path, archive: Path, level: dict[str, int]) -> None:
    """A tar.xz of a folder; x86 code is prepared for it."""

    def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, **level}]
    with lzma.open(archive, "w", filters=filters) as file, tarfile.open(fileobj=file, mode="w") as programs:
        for path in sorted(tree.iterdir()):
            programs.add(path, path.name, filter=anonymous)


def commit() -> str:
    """Of the checkout, with a + where something was changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # MAX was seen to abort while it is torn down
