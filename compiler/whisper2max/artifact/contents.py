"""Check, once when an artifact is opened, what its files hold against its manifest and against each other.

The graph text, the table of the weights, the tokenizer and generation.json must all be of the one model that the
manifest names, so that whatever reads them afterwards meets no surprise. Compiled graphs are native code that only MAX
reads; `whisper2max.runtime.engine` compares their inputs and outputs with the dimensions when they are loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from whisper2max.artifact.generation_schema import check_against_tokenizer, check_generation
from whisper2max.artifact.listing import COPY_AGAIN
from whisper2max.artifact.manifest import GRAPHS_OF, graph_file
from whisper2max.artifact.stored_tensors import read_header
from whisper2max.core import strict_json
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError, Whisper2MaxError
from whisper2max.core.held import HeldFile, HeldFiles
from whisper2max.core.printable import shortened
from whisper2max.graph.ir import JOINED, Embedding, GraphSpec, Linear
from whisper2max.runtime.tokens import Tokenizer

_MOST_TEXT = 16 << 20
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Contents:
    """The parsed content of files whose hashes were compared.

    Attributes:
        spec: the network, from graph.txt.
        tokenizer: from tokenizer.json.
        generation: the content of generation.json.
    """

    spec: GraphSpec
    tokenizer: Tokenizer
    generation: dict[str, Any]


def read_contents(
    files: HeldFiles, dims: ModelDimensions, dtype: str, targets: Sequence[Mapping[str, Any]]
) -> Contents:
    """Reads and checks everything of an artifact that is not native code.

    Args:
        files: the listed files, held.
        dims: of the manifest.
        dtype: of the manifest.
        targets: of the manifest, all of them.

    Raises:
        ArtifactError: files are unusable, or of another model than the manifest says; all faults are listed.
    """
    faults: list[str] = []

    def attempt(read: Callable[[], _Read]) -> _Read | None:
        try:
            return read()
        except Whisper2MaxError as error:
            faults.append(str(error))
            return None

    spec = attempt(lambda: _read_spec(files["graph.txt"], dims, dtype))
    if spec is not None:
        attempt(lambda: _check_weights(files["weights.safetensors"], spec))
    tokenizer = attempt(lambda: Tokenizer.from_json(files["tokenizer.json"].read(_MOST_TEXT), dims.n_vocab))
    generation = attempt(lambda: _read_generation(files["generation.json"], dims, tokenizer))
    faults += [f"{name} is empty. {COPY_AGAIN}" for name in files if name.endswith(".mef") and files[name].size == 0]
    folders = ["", *(target["name"] for target in targets[1:])]
    needed = [graph_file(name, folder) for folder in folders for name in GRAPHS_OF[spec.backend]] if spec else []
    faults += [f"{name} is missing. {COPY_AGAIN}" for name in needed if name not in files]
    for_gpus = [target["name"] for target in targets if target.get("gpu")]
    if spec is not None and spec.backend == "cpu" and for_gpus:
        faults.append(f"graph.txt is of a network for CPUs, and the targets are {shortened(for_gpus)}. {COPY_AGAIN}")
    if faults:
        raise ArtifactError(f"{files.directory} cannot be used: {' '.join(faults)}")
    return Contents(spec, tokenizer, generation)


def _read_spec(file: HeldFile, dims: ModelDimensions, dtype: str) -> GraphSpec:
    try:
        text = file.read(_MOST_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"graph.txt is not text in UTF-8 ({error}). {COPY_AGAIN}") from error
    spec = GraphSpec.parse(text)
    if (spec.dims, spec.dtype) != (dims, dtype):
        ours, theirs = {**dims.to_dict(), "dtype": dtype}, {**spec.dims.to_dict(), "dtype": spec.dtype}
        differing = [f"{name} {ours[name]} and {theirs[name]!r:.40}" for name in ours if ours[name] != theirs[name]]
        raise ArtifactError(f"the manifest and graph.txt are of different models: {', '.join(differing)}. {COPY_AGAIN}")
    spec.validate()
    formats = {"cpu": {dtype}, "max": {f"{dtype} rows", JOINED}}[spec.backend]
    unpacked = [
        path for path, node in spec.nodes.items() if isinstance(node, Linear | Embedding) and node.packed not in formats
    ]
    if unpacked:
        raise ArtifactError(f"graph.txt stores {shortened(unpacked)} in another dtype than {dtype}. {COPY_AGAIN}")
    return spec


def _check_weights(file: HeldFile, spec: GraphSpec) -> None:
    stored = {name: (tensor.dtype, tensor.shape) for name, tensor in read_header(file).tensors.items()}
    expected = spec.stored()
    faults = [f"{name} is missing" for name in expected if name not in stored]
    faults += [f"{name} is not in graph.txt" for name in stored if name not in expected]
    faults += [
        f"{name} is {_shown(*stored[name])}, expected {_shown(*expected[name])}"
        for name in expected
        if name in stored and stored[name] != expected[name]
    ]
    if faults:
        raise ArtifactError(f"weights.safetensors is not of this graph: {shortened(faults, '; ')}. {COPY_AGAIN}")


def _shown(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {list(shape)}"


def _read_generation(file: HeldFile, dims: ModelDimensions, tokenizer: Tokenizer | None) -> dict[str, Any]:
    content = file.read(strict_json.MOST_BYTES)
    generation = strict_json.parse(content, "generation.json", ArtifactError, COPY_AGAIN)
    check_generation(generation, dims)
    if tokenizer is not None:
        check_against_tokenizer(generation, tokenizer.special)
        if set(range(tokenizer.special.eot)) <= set(generation["suppress_tokens"]):
            raise ArtifactError(f"generation.json suppresses every token of text: nothing could be said. {COPY_AGAIN}")
    return generation
