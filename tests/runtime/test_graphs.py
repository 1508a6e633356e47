"""Compiled graphs are told apart by their inputs and outputs. Real ones are tried in tests/trust/test_artifacts.py."""

from types import SimpleNamespace

import pytest
from max.dtype import DType

from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError
from whisper2max.runtime.graphs import require_signatures

DIMS = ModelDimensions(80, 1500, 32, 2, 1, 51865, 448, 32, 2, 1)
CACHE = (DType.float32, [None, 1, 448, 32])
STATES = (DType.float32, [None, 1500, 32])
POOLS = [(DType.int8, [None, 1, 2, 47, 17, 128]), (DType.int8, [None, 1, 2, 1, 376, 128])]
OF_ROWS, TOKENS = (DType.int64, [None]), (DType.int64, [None, None])
ROWS = [OF_ROWS, (DType.int32, [None, 448]), OF_ROWS, CACHE, CACHE, *POOLS]
SIGNATURES = {
    "features": (
        [(DType.float32, [None]), (DType.float32, [80, 201])],
        [(DType.float32, [80, None])],
    ),
    "encoder": ([(DType.float32, [None, 80, 3000])], [STATES]),
    "audio": ([STATES, OF_ROWS, *POOLS], []),
    "extend": ([TOKENS, TOKENS, *ROWS], [(DType.float32, [None, None, 51865])]),
    "step": ([OF_ROWS, *ROWS], [(DType.float32, [None, 51865])]),
}


def graphs(**changed):
    """Stand-ins for loaded graphs."""

    def side(tensors):
        return [SimpleNamespace(dtype=dtype, shape=shape) for dtype, shape in tensors]

    return {
        name: SimpleNamespace(input_metadata=side(inputs), output_metadata=side(outputs))
        for name, (inputs, outputs) in {**SIGNATURES, **changed}.items()
    }


def test_the_graphs_of_a_model_are_accepted():
    require_signatures(graphs(), DIMS)


@pytest.mark.parametrize(
    ("changed", "pattern"),
    [
        ({"encoder": SIGNATURES["step"]}, r"encoder.mef takes int64 \[\?\], .* expected float32 \[\?, 80, 3000\]"),
        ({"encoder": ([(DType.float32, [None, 128, 3000])], [STATES])}, r"takes float32 \[\?, 128, 3000\], expected"),
        ({"encoder": ([(DType.bfloat16, [None, 80, 3000])], [STATES])}, r"takes bfloat16 \[\?, 80, 3000\]"),
        ({"step": (SIGNATURES["step"][0][:-1], SIGNATURES["step"][1])}, "step.mef takes"),
        ({"step": ([*SIGNATURES["step"][0][:-2], *reversed(POOLS)], SIGNATURES["step"][1])}, "step.mef takes"),
        ({"extend": (SIGNATURES["extend"][0], [])}, r"extend.mef gives nothing, expected float32 \[\?, \?, 51865\]"),
        ({"audio": ([STATES, OF_ROWS, CACHE, *POOLS[1:]], [])}, "audio.mef takes .*; extend.mef takes .*; step.mef"),
        ({"features": (SIGNATURES["features"][0], [])}, r"features.mef gives nothing, expected float32 \[80, \?\]"),
    ],
)
def test_others_are_refused(changed, pattern):
    with pytest.raises(ArtifactError, match=f"compiled graphs are not of this model: .*{pattern}.*whisper2max compile"):
        require_signatures(graphs(**changed), DIMS)


def test_graphs_of_other_dimensions_are_refused():
    wider = ModelDimensions(80, 1500, 64, 2, 1, 51865, 448, 64, 2, 1)
    with pytest.raises(ArtifactError, match=r"encoder.mef gives float32 \[\?, 1500, 32\], expected .*64\]; audio.mef"):
        require_signatures(graphs(), wider)
