"""Read by mypy, in test_protocol.py: whoever runs a model for decoding is an `Engine`, sessions and all."""

from conftest import TorchEngine
from peers.openvino import Engine as OpenVinoEngine

from whisper2max.runtime.engine import Engine as MaxEngine
from whisper2max.runtime.protocol import Engine


def decodes(engine: Engine) -> None: ...


def every_engine(of_max: MaxEngine, of_torch: TorchEngine, of_openvino: OpenVinoEngine) -> None:
    decodes(of_max)
    decodes(of_torch)
    decodes(of_openvino)
