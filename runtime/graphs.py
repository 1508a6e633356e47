"""Compiled graphs on their way into MAX: the very bytes that were hashed, with the inputs and outputs they need."""

from collections.abc import Mapping

import numpy as np
from max.driver import Buffer
from max.engine import InferenceSession, Model, read

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.core.printable import shortened
from whisper2max.runtime.weights import registry

_COMPILE = "Run `whisper2max compile` on the artifact, or copy it again from its source."
_ANY = None  # an axis that is free

Signature = list[tuple[str, tuple[int | None, ...]]]


def load_graph(session: InferenceSession, mef: HeldFile, weights: Mapping[str, np.ndarray | Buffer]) -> Model:
    """A graph that is ready to run. MAX maps a copy that nobody can change any more.

    Args:
        session: of this process.
        mef: the compiled graph.
        weights: by name; those of `map_weights` must outlive the model.

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


def require_signatures(graphs: Mapping[str, Model], dims: ModelDimensions) -> None:
    """Requires that the graphs are those of a model of these dimensions, by their inputs and outputs.

    Args:
        graphs: features, encoder, prompt and step.
        dims: sizes of the model.

    Raises:
        ArtifactError: inputs or outputs have other dtypes or shapes; all are listed.
    """
    wanted = _signatures(dims)
    # how keys and values of the audio are packed is between the two graphs
    projections = _signature(graphs["prompt"].output_metadata)[1:]
    if len(projections) == 2 * dims.n_text_layer:
        wanted["prompt"][1].extend(projections)
        wanted["step"][0].extend(projections)
    faults = []
    for name, graph in graphs.items():
        for side, found, expected in zip(
            ("takes", "gives"), (graph.input_metadata, graph.output_metadata), wanted[name], strict=True
        ):
            if _signature(found) != expected:
                faults.append(f"{name}.mef {side} {_shown(_signature(found))}, expected {_shown(expected)}")
    if faults:
        raise ArtifactError(f"The compiled graphs are not of this model: {'; '.join(faults)}. {_COMPILE}")


def _signatures(dims: ModelDimensions) -> dict[str, tuple[Signature, Signature]]:
    """Inputs and outputs by graph, without the packed keys and values of the audio."""
    cache = ("float32", (dims.n_text_layer, _ANY, dims.n_text_ctx, dims.n_text_state))
    states = ("float32", (_ANY, dims.n_audio_ctx, dims.n_audio_state))
    row, rows = ("int64", (_ANY,)), ("int64", (_ANY, _ANY))
    return {
        "features": (
            [("float32", (_ANY,)), ("float32", (dims.n_mels, 201)), ("int64", ())],
            [("float32", (dims.n_mels, _ANY))],
        ),
        "encoder": ([("float32", (_ANY, dims.n_mels, dims.n_frames))], [states]),
        "prompt": ([rows, rows, states, cache, cache], [("float32", (_ANY, _ANY, dims.n_vocab))]),
        "step": ([row, row, cache, cache], [("float32", (_ANY, dims.n_vocab))]),
    }


def _signature(metadata: list) -> Signature:
    return [(tensor.dtype.name, tuple(tensor.shape)) for tensor in metadata]


def _shown(signature: Signature) -> str:
    tensors = (f"{dtype} [{', '.join('?' if n is _ANY else str(n) for n in shape)}]" for dtype, shape in signature)
    return shortened(tensors)
