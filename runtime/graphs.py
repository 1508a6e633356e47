"""Compiled graphs on their way into MAX: the very bytes that were hashed, with the inputs and outputs they need."""

import math
import mmap
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
from max.driver import Buffer, Device
from max.engine import InferenceSession, Model, read

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.core.printable import shortened
from whisper2max.runtime.weights import registry

_COMPILE = "Run `whisper2max compile` on the artifact, or copy it again from its source."
_ANY = None  # an axis that is free
_CACHES = ("float32", "bfloat16")

Signature = list[tuple[str, tuple[int | None, ...]]]


def load_graph(session: InferenceSession, mef: HeldFile, weights: Mapping[str, np.ndarray | Buffer]) -> Model:
    """A graph that is ready to run. MAX maps a copy that nobody can change any more.

    Args:
        session: of this process.
        mef: the compiled graph.
        weights: by name; those of `map_weights` must outlive the model, and those of `copied_to` lie on its GPU.

    Raises:
        ArtifactError: MAX refuses it, or it was changed since its hash was taken.
    """
    with mef.sealed() as copy:
        try:
            return session.init(read(copy), weights_registry=registry(weights))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ArtifactError(
                f"{mef.path.name} cannot be loaded with these weights: {reason:.300}. {_COMPILE}"
            ) from error


def placed(value: np.ndarray, device: Device | None) -> Buffer:
    """An array where graphs run: the very memory on the CPU, which is None; a copy on a GPU."""
    buffer = Buffer.from_numpy(np.asarray(value, order="C"))
    return buffer if device is None else buffer.to(device)


def empty_pools(graph: Model, slots: int, audios: int, device: Device | None = None) -> list[Buffer]:
    """Keys and values of self-attention and of the audio, the last four inputs of a graph that decodes.

    Memory begins at a page, so that no vector of the kernels lies in two lines of the cache, and is taken as it is
    written. Huge pages make one row's step a seventh faster. But then every layer of a slot takes whole ones with its
    first position, 11 MB a slot of base, of which a window of speech fills a fifth; so where there are several slots,
    the pages of theirs are small.

    Args:
        graph: extend, step or decoder_block.
        slots: of self-attention.
        audios: recordings that are heard.
        device: where they lie; None for the memory of the CPU.
    """
    pools = []
    for count, pool, cache in zip((slots, slots, audios, audios), graph.input_metadata[-4:], (1, 1, 0, 0), strict=True):
        shape = (count, *pool.shape[1:])
        if device is not None:
            pools.append(Buffer.zeros(shape, pool.dtype, device))
            continue
        zeros = mmap.mmap(-1, math.prod(shape) * pool.dtype.size_in_bytes)
        if not cache or slots == 1:
            with suppress(OSError):  # of a kernel that has no huge pages
                zeros.madvise(mmap.MADV_HUGEPAGE)
        pools.append(Buffer.from_numpy(np.frombuffer(zeros, np.uint8)).view(pool.dtype, shape))
    return pools


def require_signatures(graphs: Mapping[str, Model], dims: ModelDimensions) -> None:
    """Requires that the graphs are those of a model of these dimensions, by their inputs and outputs.

    Args:
        graphs: features, encoder, audio, extend, step, and choose if it is one of them.
        dims: sizes of the model.

    Raises:
        ArtifactError: inputs or outputs have other dtypes or shapes; all are listed.
    """
    faults = []
    signatures = _signatures(dims, *_pools(graphs, dims))
    for name, graph in graphs.items():
        takes, gives = signatures[name]
        for side, metadata, expected in (
            ("takes", graph.input_metadata, takes),
            ("gives", graph.output_metadata, gives),
        ):
            found = _signature(metadata)
            if found != expected:
                faults.append(f"{name}.mef {side} {_shown(found)}, expected {_shown(expected)}")
    if faults:
        raise ArtifactError(f"The compiled graphs are not of this model: {'; '.join(faults)}. {_COMPILE}")


def _pools(graphs: Mapping[str, Model], dims: ModelDimensions) -> tuple[Signature, Signature]:
    """The pools of slots and of audios. Their dtypes, and how what is heard lies there, are between the graphs.

    Packed for the CPU's kernels, what is heard is [audios, layers, heads, ..]; plain it is [audios, layers, frames,
    state].
    """
    cache = (_ANY, dims.n_text_layer, dims.n_text_ctx, dims.n_text_state)
    kept = [dtype for dtype, _ in _signature(graphs["step"].input_metadata)[-4:-2]]
    caches = [(dtype if dtype in _CACHES else "float32", cache) for dtype in kept]
    plain = (_ANY, dims.n_text_layer, dims.n_audio_ctx, dims.n_text_state)
    packed = plain[:2] + (dims.n_text_head,)
    audios = [
        (dtype, shape if shape == plain else packed + (shape[3:] if shape[:3] == packed else (_ANY,) * 3))
        for dtype, shape in _signature(graphs["audio"].input_metadata)[-2:]
    ]
    return caches, audios


def _signatures(
    dims: ModelDimensions, caches: Signature, pools: Signature
) -> dict[str, tuple[Signature, Signature]]:
    """Inputs and outputs by graph."""
    states = ("float32", (_ANY, dims.n_audio_ctx, dims.n_audio_state))
    logits = ("float32", (_ANY, dims.n_vocab))
    of_rows, tokens = ("int64", (_ANY,)), ("int64", (_ANY, _ANY))
    rows = [of_rows, ("int32", (_ANY, dims.n_text_ctx)), of_rows, *caches, *pools]
    return {
        "features": (
            [("float32", (_ANY,)), ("float32", (dims.n_mels, 201))],
            [("float32", (dims.n_mels, _ANY))],
        ),
        "encoder": ([("float32", (_ANY, dims.n_mels, dims.n_frames))], [states]),
        "audio": ([states, of_rows, *pools], []),
        "extend": ([tokens, tokens, *rows], [("float32", (_ANY, _ANY, dims.n_vocab))]),
        "step": ([of_rows, *rows], [logits]),
        "choose": ([logits, ("int32", (_ANY, 10)), ("uint8", (_ANY, dims.n_vocab))], [("float32", (_ANY, 4))]),
    }


def _signature(metadata: list) -> Signature:
    return [(tensor.dtype.name, tuple(tensor.shape)) for tensor in metadata]


def _shown(signature: Signature) -> str:
    tensors = (f"{dtype} [{', '.join('?' if n is _ANY else str(n) for n in shape)}]" for dtype, shape in signature)
    return shortened(tensors)
