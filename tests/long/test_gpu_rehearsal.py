"""Graphs for a GPU on a driver without one: what MAX asks of a device for a step, and that a device would do it.

The kernels do not run here: `tests/kernels/test_gpu_paths.py` computes what ours give, from their PTX.
"""

import json

import pytest
from artifact_samples import contents
from rehearsal import BEFORE, build_driver, count, rehearse, size
from small_models import HEADS_OF_64, VARIANTS, packed_spec, transformers_module

import whisper2max
from whisper2max.build.compiler import Source, compile_tapped
from whisper2max.build.target import resolve
from whisper2max.graph.emit import emit

DIMS = VARIANTS["multilingual_80_mels"]
ROWS = 8

STEPS = """
import json, sys

import numpy as np
from max.driver import Accelerator, Buffer
from rehearsal import mark
from whisper2max.core.dims import ModelDimensions
from whisper2max.core.errors import ArtifactError
from whisper2max.core.held import HeldFile
from whisper2max.runtime.choice import Allowed
from whisper2max.runtime.choice_on_device import Masks
from whisper2max.runtime.features_graph import FeaturesGraph
from whisper2max.runtime.graphs import empty_pools, load_graph
from whisper2max.runtime.protocol import Rows
from whisper2max.runtime.replay import Replayed
from whisper2max.runtime.threads import gpu_session, shared_session
from whisper2max.runtime.weights import copied_to

asked = json.loads(sys.argv[1])
rows, dims = asked["rows"], ModelDimensions(**asked["dims"])
device = Accelerator(0)
shared_session()
session = gpu_session(device)
dtypes = {"float32": np.float32, "bfloat16": np.uint16}
stored = {name: np.zeros(shape, dtypes[dtype]) for name, (dtype, shape) in asked["stored"].items()}
weights = copied_to(device, stored)
step, choose = (load_graph(session, HeldFile(asked[name], ArtifactError), weights) for name in ("step", "choose"))
pools = empty_pools(step, rows, rows, device)
masks = Masks(dims.n_vocab)
numbers = masks.asked([Allowed(np.arange(5))] * rows)


def placed(array):
    return Buffer.from_numpy(np.ascontiguousarray(array)).to(device)


masks_there = placed(masks.masks)


features = FeaturesGraph(session, HeldFile(asked["features"], ArtifactError), dims, device)
for number in range(2):
    mark(f"features {number}")
    print(*features.powers(np.zeros(16_000, np.float32), padding=480_000).shape)


def executed(*inputs):
    return step.execute(*map(placed, inputs), *pools)


for way, run in (("executed", executed), ("recorded", Replayed(step, pools, placed))):
    for number in range(3):
        mark(f"{way} {number}")
        at = Rows.apart([number] * rows, list(range(rows)), dims.n_text_ctx)
        (logits,) = run(np.full(rows, 7, np.int64), at.positions, at.slots, at.audios)
        (chosen,) = choose.execute(logits, placed(numbers), masks_there)
        chosen.to_numpy()
mark("end")
print(*chosen.shape)
"""

MODEL = """
import sys
import threading

import numpy as np
import whisper2max
from rehearsal import mark
from whisper2max.runtime.choice import Allowed
from whisper2max.runtime.protocol import Rows

mark("load")
model = whisper2max.load(sys.argv[1], device="cuda")
engine, dims = model.engine, model.engine.dims
for rows in (1, 8):
    mark(f"session of {rows}")
    session = engine.session(rows, rows)
    audios = list(range(rows))
    mark(f"hear {rows}")
    for audio in audios:
        session.hear(np.zeros((dims.n_mels, dims.n_frames), np.float32), audio)
    mark(f"extend {rows}")
    prompt = np.full((rows, 4), dims.n_vocab - 1608, np.int64)
    session.extend(prompt, Rows.apart([0] * rows, audios, dims.n_text_ctx), np.array([[0, 3]] * rows))
    for number in range(3):
        mark(f"step {number} of {rows}")
        logits = session.step(np.full(rows, 7, np.int64), Rows.apart([4 + number] * rows, audios, dims.n_text_ctx))
        chosen = session.choose(logits, [Allowed(np.arange(5))] * rows)
mark("transcribe")
segments, _ = model.transcribe(sys.argv[2], language="en", without_timestamps=True)
print(len(chosen), len(list(segments)))
mark("threads")


def hear_and_read():
    session = engine.session(1, 1)
    mel = np.zeros((dims.n_mels, dims.n_frames), np.float32)
    while len(done) < 20:
        session.hear(mel, 0)
        engine.to_numpy(engine.encode(mel[None]))
        engine.session(2, 1)


done = []
other = threading.Thread(target=hear_and_read)
other.start()
try:
    while len(done) < 20:  # each session records its own steps, and nothing of the other thread's may be among them
        session = engine.session(8, 8)
        for number in range(3):
            logits = session.step(np.full(8, 7, np.int64), Rows.apart([number] * 8, list(range(8)), dims.n_text_ctx))
            session.choose(logits, [Allowed(np.arange(5))] * 8)
        done.append(session)
finally:
    done += [None] * 20
    other.join()
mark("end")
"""

JUDGED = """
import sys

import whisper2max
from rehearsal import mark
from small_models import HEADS_OF_64, transformers_module
from whisper2max.parity.comparison import replay_artifact

module = transformers_module(HEADS_OF_64, seed=3)
mark("verify")
report = whisper2max.verify(sys.argv[1], module=module, device="cuda", isolated=True)
builds = {row.build for row in report.rows}
print(report.passed, repr(report.not_executed), *sorted(builds))
mark("replay")
report, _ = replay_artifact(sys.argv[1], print, device="cuda")
print(report.passed, repr(report.not_executed), *sorted({row.build for row in report.rows}))
mark("end")
"""

REFUSED = """
import ctypes, sys
from pathlib import Path

from rehearsal import mark

image = Path(sys.argv[1]).read_bytes()
image = image[image.index(bytes.fromhex("7f454c4602010141")) :]  # machine code for CUDA
name = image[image.index(b".text.") + len(".text.") :].partition(bytes(1))[0]
driver = ctypes.CDLL("libcuda.so.1")
module, kernel, address = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
assert not driver.cuModuleLoadDataEx(ctypes.byref(module), image, 0, None, None)
assert driver.cuModuleGetFunction(ctypes.byref(kernel), module, b"of another name")
assert not driver.cuModuleGetFunction(ctypes.byref(kernel), module, name)
memory = ctypes.create_string_buffer(1 << 14)  # no argument is larger
arguments = (ctypes.c_void_p * 128)(*[ctypes.addressof(memory)] * 128)
config = (ctypes.c_uint * 14)()
for number, sizes in enumerate(sys.argv[2:]):
    mark(f"launch {number}")
    config[:7] = [int(size) for size in sizes.split(",")]
    driver.cuLaunchKernelEx(config, kernel, arguments, None)
mark("copies")
assert not driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(64))
driver.cuMemcpyHtoDAsync_v2(address, bytes(64), ctypes.c_size_t(64), None)
driver.cuMemcpyHtoDAsync_v2(address, bytes(65), ctypes.c_size_t(65), None)
mark("recording")
assert not driver.cuStreamBeginCapture(ctypes.c_void_p(1))
driver.cuMemcpyHtoDAsync_v2(address, bytes(64), ctypes.c_size_t(64), ctypes.c_void_p(1))
mark("missing")
driver.cuLaunchKernel()
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    try:
        return build_driver(tmp_path_factory.mktemp("driver"))
    except FileNotFoundError:
        pytest.skip("a driver to rehearse with is compiled, and there is no gcc")


@pytest.fixture(scope="module")
def compiled():
    """The small features, step and choose for an H100, and what weights they take."""
    spec = packed_spec(DIMS, "bfloat16", "max")
    names = {"features": (), "step": (), "choose": ()}
    graphs = compile_tapped(Source.generated(emit(spec)), names, resolve("sm_90"), print)
    return {name: str(mef.path) for name, mef in graphs.items()}, spec.stored()


def most_launches(dims) -> int:
    """Of a step with its choice: eleven a layer, and the embeddings, the last norm, the logits and the choice."""
    return 11 * dims.n_text_layer + 5


def require_lean(part, dims, graphs=0):
    """That a step with its choice asks for what it needs, so many recorded graphs among it, and waits once at most."""
    assert not [event.line for event in part if event.kind.startswith(("bad", "unsupported", "alloc", "memset"))]
    assert count(part, "synchronize", "copy DtoH") <= 1 and size(part, "copy DtoH") < 1024
    assert count(part, "graph launch") == graphs
    assert 0 < count(part, "launch") <= (1 if graphs else most_launches(dims))


def shown(part) -> str:
    kinds = ("launch", "graph launch", "copy HtoD", "copy DtoH", "synchronize", "alloc", "memset")
    counts = {kind: (count(part, kind), size(part, kind)) for kind in kinds}
    return ", ".join(f"{n} {kind}" + f" of {of} bytes" * bool(of) for kind, (n, of) in counts.items() if n)


def test_the_driver_refuses_what_a_device_would(driver, compiled, tmp_path):
    """Grid, block and bytes of shared memory by what is said of them."""
    launches = {
        "": ["1,1,1,128,1,1,0", "2147483647,65535,65535,1024,1,1,1024"],
        "a block has too many threads": ["1,1,1,1024,2,1,0", "1,1,1,1025,1,1,0"],
        "a block has too much shared memory": ["1,1,1,128,1,1,232449"],
        "a block has more shared memory than was asked for": ["1,1,1,128,1,1,49153"],
        "there are too many blocks": ["1,65536,1,128,1,1,0", "1,1,65536,128,1,1,0"],
        "a size is zero": ["0,1,1,128,1,1,0", "1,1,0,128,1,1,0", "1,1,1,128,0,1,0"],
    }
    expected = [reason for reason, sizes in launches.items() for _ in sizes]
    every = [each for sizes in launches.values() for each in sizes]
    parts = rehearse(REFUSED, driver, tmp_path / "log", compiled[0]["choose"], *every).parts
    for number, (sizes, reason) in enumerate(zip(every, expected, strict=True)):
        (event,) = parts[f"launch {number}"]
        assert event.kind == ("bad launch" if reason else "launch"), sizes
        assert event.line.partition(": ")[2] == reason, sizes
    assert [event.kind for event in parts["copies"]] == ["alloc", "copy HtoD", "bad copy HtoD"]
    assert [event.line for event in parts["recording"]] == ["bad copy HtoD 64: its stream is being recorded"]
    assert [event.line for event in parts["missing"]] == ["unsupported cuLaunchKernel"]


def test_a_step_of_eight_rows(driver, compiled, tmp_path):
    graphs, stored = compiled
    asked = {"rows": ROWS, "dims": DIMS.to_dict(), "stored": stored, **graphs}
    rehearsal = rehearse(STEPS, driver, tmp_path / "log", json.dumps(asked))
    assert rehearsal.output.split() == ["80", "3100"] * 2 + [str(ROWS), "4"]
    features = rehearsal.parts.pop("features 1")
    print(f"features: {shown(features)}")
    assert count(features, "launch") == count(features, "copy HtoD") == count(features, "copy DtoH") == 1
    assert size(features, "copy HtoD") == 4 * (16_000 + 800)
    assert not [each for each in features if each.kind.startswith("bad")]
    parts = {name: part for name, part in rehearsal.parts.items() if name[-1].isdigit()}
    for name, part in parts.items():
        print(f"{name}: {shown(part)}")
    for name in ("executed 1", "executed 2"):
        require_lean(parts[name], DIMS)
        assert count(parts[name], "launch") == count(parts["executed 0"], "launch")
    require_lean(parts["recorded 2"], DIMS, graphs=1)
    recording = parts["recorded 1"]
    assert count(recording, "launch") == count(parts["executed 0"], "launch") and count(recording, "graph launch") == 1
    assert not [event.line for event in recording if event.kind.startswith(("bad", "unsupported", "alloc"))]


def require_rehearsed(artifact, driver, log, recording):
    """That an artifact loads, decodes and transcribes as a device would do it."""
    dims = artifact.spec.dims
    parts = rehearse(MODEL, driver, log, str(artifact.path), str(recording)).parts
    for name, part in parts.items():
        print(f"{name}: {shown(part)}")
        assert not [event.line for event in part if event.kind.startswith("bad")]
        optional = ["unsupported cuMemGetAllocationGranularity"] if name == "load" else []
        assert [event.line for event in part if event.kind == "unsupported"] == optional
        assert name in ("load", "threads") or not count(part, "alloc")
    for rows in (1, ROWS):
        assert 0 < count(parts[f"step 0 of {rows}"], "launch") <= most_launches(dims)
        require_lean(parts[f"step 2 of {rows}"], dims, graphs=1)
        assert count(parts[f"hear {rows}"], "copy DtoH", "synchronize") == 0
        assert count(parts[f"extend {rows}"], "copy DtoH", "synchronize") == 1
    weights = (artifact.path / "weights.safetensors").stat().st_size
    print(f"weights.safetensors: {weights} bytes in {len(artifact.spec.stored())} tensors")
    assert size(parts["load"], "copy HtoD") <= 1.05 * weights
    assert count(parts["load"], "copy HtoD") == len(artifact.spec.stored())
    assert not parts[BEFORE]


@pytest.mark.exhaustive
def test_an_artifact(driver, tmp_path, repository):
    module = transformers_module(HEADS_OF_64, seed=3)
    output = tmp_path / "artifact"
    options = {"dtype": "bfloat16", "target": "sm_90", "keep_reference": True}
    artifact = whisper2max.convert(module=module, output=output, **options)
    require_rehearsed(artifact, driver, tmp_path / "log", repository / "samples" / "speech.flac")
    before = contents(output)
    judged = rehearse(JUDGED, driver, tmp_path / "judged", str(output))
    verified, *_, replayed = [line for line in judged.output.splitlines() if line.startswith(("True", "False"))]
    # nothing is computed, so nothing is right: but all of it was asked for, and the artifact is not marked
    assert verified == "False '' isolated shipped tapped" and replayed == "False '' shipped tapped"
    assert contents(output) == before
    for name in ("verify", "replay"):
        assert count(judged.parts[name], "launch") > 100
        assert not [event.line for event in judged.parts[name] if event.kind.startswith("bad")]
