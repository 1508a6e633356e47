"""The OpenVINO peer stands where this project's engine stands in the decoding loop."""

import inspect
import re

from peers import openvino

from whisper2max.runtime import decoding, engine, recording, windows


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_it_has_what_the_decoding_loop_calls():
    # batches and the detection of the language are not asked of this peer
    loop = inspect.getsource(decoding._main_loop) + inspect.getsource(windows.in_turn)
    loop += inspect.getsource(windows.Heard) + inspect.getsource(recording.Recording)
    called = set(re.findall(r"\bengine\.(\w+)\(", loop)) - {"to_states", "to_numpy"}
    assert called == {"log_mel_powers", "encode", "prompt"}
    for name in called:
        assert parameters(getattr(openvino.Engine, name)) == parameters(getattr(engine.Engine, name)), name
    assert parameters(openvino.Session.step) == parameters(engine.Session.step)
