"""What the kernels do on a device: their PTX, run by numpy, against float64; and that they compile for every target."""

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from any_choices import N_VOCAB, cases, require_equal, wanted
from longhand import attend, gelu, gelu_tanh
from programs import KERNELS, MOJO
from ptx import Fault, Kernel

from whisper2max.runtime.choice_on_device import Masks, answered
from whisper2max.runtime.features import mel_filters

TARGETS = ("sm_80", "sm_89", "sm_90a", "sm_100a", "gfx942")
RUN = "sm_90a"
"""The target whose PTX is run."""

THREADS, WARPS, MOST_ROWS, HEARING, CHOOSERS, MEL_THREADS, MEL_FRAMES = 128, 4, 8, 512, 512, 256, 8
HEADS, HEAD_DIM, CONTEXT, FRAMES = 2, 64, 448, 1500
STATE = HEADS * HEAD_DIM
LAYER, LAYERS = 1, 2

TOLERANCES = {"float32": 1e-6, "bfloat16": 4e-3}
"""Relative root mean square errors of results of a dtype."""

# dtype, result, activation, adds
PRODUCTS = [
    ("bfloat16", "float32", "none", True),
    ("bfloat16", "float32", "none", False),
    ("bfloat16", "bfloat16", "none", False),
    ("bfloat16", "bfloat16", "gelu", False),
    ("bfloat16", "bfloat16", "gelu_tanh", False),
    ("float32", "float32", "gelu", False),
    ("float32", "float32", "none", True),
]
ACTIVATIONS = {"none": lambda x: x, "gelu": gelu, "gelu_tanh": gelu_tanh}


def product_name(dtype, result, rows_at_once, activation, adds):
    return f'product_kernel[DType.{dtype}, DType.{result}, {rows_at_once}, "{activation}", {adds}]'


def names():
    """All kernels as Mojo writes them."""
    yield "choose_kernel"
    yield "log_mel_kernel"
    for dtype in TOLERANCES:
        yield f"slot_attention_kernel[DType.{dtype}, {HEAD_DIM}, {CONTEXT}]"
        yield f"heard_attention_kernel[DType.{dtype}, {HEAD_DIM}, {FRAMES}]"
        yield f"store_kernel[DType.{dtype}]"
        yield f"norm_kernel[DType.{dtype}]"
    for rows_at_once in (1, MOST_ROWS):
        for dtype, result, activation, adds in PRODUCTS:
            yield product_name(dtype, result, rows_at_once, activation, adds)


IMPORTS = """
from kernels.choose import choose_kernel
from kernels.log_mel_blocks import log_mel_kernel
from kernels.row_attention import heard_attention_kernel, slot_attention_kernel, store_kernel
from kernels.row_norm import norm_kernel
from kernels.row_product import product_kernel
from max.gpu.host import get_gpu_target
from std.compile import compile_info


def main():
"""
MARK = "---- next ----"


@pytest.fixture(scope="module")
def assembly(tmp_path_factory) -> dict[tuple[str, str], str]:
    """By target and name, all from one run of one program."""
    folder = tmp_path_factory.mktemp("assembly")
    (folder / "kernels").mkdir()
    for path in KERNELS.glob("*.mojo"):
        shutil.copy(path, folder / "kernels")
    keys = [(target, name) for target in TARGETS for name in names()]
    lines = [
        f'    print(compile_info[{name}, emission_kind="asm", target=get_gpu_target["{target}"]()](), "{MARK}")\n'
        for target, name in keys
    ]
    (folder / "main.mojo").write_text(IMPORTS + "".join(lines))
    result = subprocess.run([MOJO, "run", "main.mojo"], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    *texts, rest = result.stdout.split(MARK)
    assert not rest.strip()
    return dict(zip(keys, texts, strict=True))


@pytest.fixture(scope="module")
def kernel(assembly):
    """kernel(name) -> Kernel."""
    return cache(lambda name: Kernel(assembly[RUN, name]))


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_and_keeps_its_values_in_registers(target, assembly):
    for name in names():
        text = assembly[target, name]
        if target.startswith("gfx"):
            assert f"amdhsa-unknown-{target}" in text
            assert re.search(r"\.private_segment_fixed_size: 0\n", text), f"{name} has local memory"
        else:
            assert f".target {target}\n" in text
            assert ".local" not in text, f"{name} has local memory"


@pytest.fixture(scope="module")
def ptxas():
    """NVIDIA's assembler, which comes with torch's triton."""
    found = importlib.util.find_spec("triton")
    path = found and Path(found.origin).parent / "backends" / "nvidia" / "bin" / "ptxas"
    if not path or not path.exists():
        pytest.skip("this torch brings no ptxas of triton")
    return path


@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_90a"])
def test_a_multiprocessor_has_room_for_a_block_of_every_kernel(target, assembly, ptxas, tmp_path):
    """Machine code, with no registers spilled into memory, and not more of them than a block may have."""
    for name in names():
        (tmp_path / "kernel.ptx").write_text(assembly[target, name])
        command = [ptxas, f"-arch={target}", "-v", tmp_path / "kernel.ptx", "-o", tmp_path / "kernel.cubin"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "0 bytes spill stores, 0 bytes spill loads" in result.stderr, name
        registers = int(re.search(r"Used (\d+) registers", result.stderr)[1])
        assert registers * threads_of(name) <= 65_536, f"{name}: {registers} registers"


def threads_of(name: str) -> int:
    """Of a block."""
    others = {"heard": HEARING, "choose": CHOOSERS, "log_mel": MEL_THREADS}
    return next((threads for begin, threads in others.items() if name.startswith(begin)), THREADS)


# ---------------------------------------------------------------------------------------- values


def test_choose_answers_as_arrays_do(kernel):
    names, logits, allowed = zip(*cases(), strict=True)
    masks = Masks(N_VOCAB)
    asked, answers = masks.asked(allowed), np.full((len(names), 4), np.nan, np.float32)
    choose = kernel("choose_kernel")
    choose.run(len(names), CHOOSERS, [answers, np.stack(logits), asked, masks.masks, np.int32(N_VOCAB)])
    for name, scores, each, answer in zip(names, logits, allowed, answered(answers), strict=True):
        require_equal(name, answer, wanted(scores, each))
    with pytest.raises(Fault, match="of argument 1, outside of its"):
        short = [answers[:1], logits[0][:-1].copy(), asked[:1], masks.masks[:1], np.int32(N_VOCAB)]
        choose.run(1, CHOOSERS, short)


def powers_longhand(samples: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Decades of mel power of a whole recording, by numpy's transform in float64."""
    signal = np.pad(samples, 200, mode="reflect").astype(np.float64)
    frames = np.stack([signal[start : start + 400] for start in range(0, samples.size - 159, 160)])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    return np.log10(np.maximum(filters.astype(np.float64) @ np.abs(np.fft.rfft(frames * hann)).T ** 2, 1e-10))


@pytest.mark.parametrize("size", [160, 200, 1290, 1999, 3600])
@pytest.mark.parametrize("n_mels", [80, 128])
def test_log_mel(size, n_mels, kernel):
    """Any length; a loud tone beside quiet noise, whose decades float32 would get wrong by 1e-5 and more."""
    rng, at = np.random.default_rng(size), np.arange(size)
    samples = (2e-3 * rng.standard_normal(size) + 0.9 * np.sin(2 * np.pi * 440.3 / 16000 * at)).astype(np.float32)
    filters, n_frames = mel_filters(n_mels).copy(), size // 160
    output, log_mel = np.full((n_mels, n_frames), np.nan, np.float32), kernel("log_mel_kernel")
    arguments = [output, samples, filters, np.int64(size), np.int32(n_mels), np.int64(n_frames)]
    log_mel.run(-(-n_frames // MEL_FRAMES), MEL_THREADS, arguments)
    np.testing.assert_allclose(output, powers_longhand(samples, filters), rtol=0, atol=4e-6)
    shorter = {0: output[:-1].copy(), 1: samples[:-200].copy(), 2: filters[:-1].copy()}
    for number, argument in shorter.items():
        short = [argument if i == number else each for i, each in enumerate(arguments)]
        with pytest.raises(Fault, match=f"of argument {number}, outside of its"):
            log_mel.run(-(-n_frames // MEL_FRAMES), MEL_THREADS, short)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25])
def test_log_mel_of_samples_that_have_no_power_is_no_number(value, kernel):
    samples, output = np.zeros(3200, np.float32), np.zeros((80, 20), np.float32)
    samples[1600] = value
    arguments = [output, samples, mel_filters(80).copy(), np.int64(3200), np.int32(80), np.int64(20)]
    kernel("log_mel_kernel").run(3, MEL_THREADS, arguments)
    assert np.isnan(output[:, 10]).all()
    assert (output[:, [*range(8), *range(13, 20)]] == -10).all()


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """As they lie in memory; bfloat16 as bits."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    return tensor.numpy() if dtype == "float32" else tensor.bfloat16().view(torch.uint16).numpy()


def exact(array: np.ndarray) -> np.ndarray:
    """What lies in memory, as float64."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def unset(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """NaN: what reads or leaves it is found."""
    return stored(np.full(shape, np.nan), dtype)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit by bit."""
    return a.tobytes() == b.tobytes()


def error(output: np.ndarray, expected: np.ndarray) -> float:
    """Relative root mean square."""
    return float(np.linalg.norm(exact(output) - expected) / np.linalg.norm(expected))


@dataclass
class Call:
    """A launch and what has to come of it.

    Attributes:
        name: Of the kernel, as Mojo writes it.
        grid: Blocks.
        arguments: Of the kernel by name, in order.
        output: What the argument of this name has to be, float64, if there is one.
        written: What other arguments have to be, bit by bit; those that are not here must not change.
    """

    name: str
    grid: int | tuple[int, ...]
    arguments: dict[str, np.ndarray | np.generic]
    output: np.ndarray | None = None
    written: dict[str, np.ndarray] = field(default_factory=dict)

    def run(self, kernel) -> None:
        kernel(self.name).run(self.grid, threads_of(self.name), list(self.arguments.values()))

    def check(self, kernel) -> None:
        before = {name: np.copy(argument) for name, argument in self.arguments.items()}
        self.run(kernel)
        if self.output is not None:
            output = self.arguments["output"]
            assert error(output, self.output) < TOLERANCES["bfloat16" if output.dtype == np.uint16 else "float32"]
            del before["output"]
        for name, expected in {**before, **self.written}.items():
            assert same(np.asarray(self.arguments[name]), expected), f"{name} has other values"


def from_layer(pool: np.ndarray) -> np.ndarray:
    """Of [.., layers, positions, state] all that follows where the layer begins in the first, as the host passes it."""
    return pool.reshape(-1)[LAYER * pool[0, 0].size :]


# ---------------------------------------------------------------------------------------- attention to tokens


def slot_attention(dtype: str, positions: list[int], length: int, count: int | None = None) -> Call:
    """Rows at these positions, whose earlier tokens lie in any of `count` slots: many are those of several rows."""
    rng, rows, count = np.random.default_rng(len(positions)), len(positions), count or len(positions) + 1
    joined = stored(rng.standard_normal((rows, length, 3 * STATE)), dtype)
    slots = rng.integers(0, count, (rows, CONTEXT)).astype(np.int32)
    for row, position in enumerate(positions):
        for p in range(position, position + length):  # no other row reads or writes there
            slots[row, p] = rng.choice(sorted({*range(count)} - {*np.delete(slots[:, p], row).tolist()}))
    # nobody may read what is not of a row's text
    keys, values = (unset((count, LAYERS, CONTEXT, STATE), dtype) for _ in range(2))
    for row, position in enumerate(positions):
        for p in range(position):
            for pool in (keys, values):
                pool[slots[row, p], LAYER, p] = stored(rng.standard_normal(STATE), dtype)
        slots[row, position + length :] = -(2**20)
    expected_keys, expected_values = keys.copy(), values.copy()
    expected = np.empty((rows, length, STATE))
    for row, position in enumerate(positions):
        for token in range(length):
            query, key, value = np.split(joined[row, token], 3)
            text = slots[row, : position + token + 1], LAYER, np.arange(position + token + 1)
            expected_keys[slots[row, position + token], LAYER, position + token] = key
            expected_values[slots[row, position + token], LAYER, position + token] = value
            expected[row, token] = attend(exact(query), exact(expected_keys[text]), exact(expected_values[text]), HEADS)
    arguments = {
        "output": unset((rows, length, STATE), dtype),
        "joined": joined,
        "positions": np.array(positions, np.int64),
        "slots": slots,
        "keys": from_layer(keys),
        "values": from_layer(values),
        "length": np.int32(length),
        "context": np.int32(CONTEXT),
        "state": np.int32(STATE),
        "slot_stride": np.int64(keys[0].size),
    }
    written = {"keys": from_layer(expected_keys), "values": from_layer(expected_values)}
    name = f"slot_attention_kernel[DType.{dtype}, {HEAD_DIM}, {CONTEXT}]"
    return Call(name, (HEADS, length, rows), arguments, expected, written)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize(
    "positions", [[0], [1], [223], [447], [223, 0, 447], [0, 1, 223, 447, 15, 16, 223, 447]], ids=str
)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_slot_attention(dtype, positions, length, kernel):
    slot_attention(dtype, [min(each, CONTEXT - length) for each in positions], length).check(kernel)


def test_a_row_may_not_read_what_another_stores(kernel):
    call = slot_attention("bfloat16", [3, 5], 1)
    call.arguments["slots"][1, 3] = call.arguments["slots"][0, 3]
    with pytest.raises(Fault, match="a race"):
        call.run(kernel)


# ---------------------------------------------------------------------------------------- attention to audio


def heard_attention(dtype: str, frames: int, audios: list[int], length: int = 1) -> Call:
    rng, rows = np.random.default_rng(frames), len(audios)
    query = stored(rng.standard_normal((rows, length, STATE)), dtype)
    keys, values = (unset((max(audios) + 1, LAYERS, frames, STATE), dtype) for _ in range(2))
    for pool in (keys, values):
        for audio in audios:
            pool[audio, LAYER] = stored(rng.standard_normal((frames, STATE)), dtype)
    expected = np.empty((rows, length, STATE))
    for row, audio in enumerate(audios):
        for token in range(length):
            own = exact(keys[audio, LAYER]), exact(values[audio, LAYER])
            expected[row, token] = attend(exact(query[row, token]), *own, HEADS)
    arguments = {
        "output": unset((rows, length, STATE), dtype),
        "query": query,
        "audios": np.array(audios, np.int64),
        "keys": from_layer(keys),
        "values": from_layer(values),
        "length": np.int32(length),
        "frames": np.int32(frames),
        "state": np.int32(STATE),
        "audio_stride": np.int64(keys[0].size),
    }
    name = f"heard_attention_kernel[DType.{dtype}, {HEAD_DIM}, {FRAMES}]"
    return Call(name, (HEADS, length, rows), arguments, expected)


@pytest.mark.parametrize(
    ("frames", "audios", "length"),
    [
        (FRAMES, [2, 0, 2], 1),
        (1, [0], 1),
        (15, [1], 3),
        (16, [1, 2, 0], 1),
        (50, [4, 0, 3, 3, 1, 0, 0, 6], 1),
        (33, [1, 0, 1], 3),
    ],
)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_heard_attention(dtype, frames, audios, length, kernel):
    heard_attention(dtype, frames, audios, length).check(kernel)


# ---------------------------------------------------------------------------------------- what is heard, stored


def store(dtype: str, places: list[int], count: int, frames: int, state: int) -> Call:
    rng = np.random.default_rng(state)
    keys, values = (unset((count, LAYERS, frames, state), dtype) for _ in range(2))
    joined = stored(rng.standard_normal((len(places), frames, 2 * state)), dtype)
    expected_keys, expected_values = keys.copy(), values.copy()
    expected_keys[places, LAYER], expected_values[places, LAYER] = np.split(joined, 2, -1)
    arguments = {
        "keys": from_layer(keys),
        "values": from_layer(values),
        "joined": joined,
        "places": np.array(places, np.int64),
        "frames": np.int32(frames),
        "state": np.int32(state),
        "audio_stride": np.int64(keys[0].size),
    }
    written = {"keys": from_layer(expected_keys), "values": from_layer(expected_values)}
    return Call(f"store_kernel[DType.{dtype}]", (frames, len(places)), arguments, written=written)


@pytest.mark.parametrize(
    ("places", "count", "frames", "state"), [([0], 1, 1, 384), ([3, 0], 5, 7, 100), ([4, 2, 0, 5], 6, 9, 128)]
)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_store(dtype, places, count, frames, state, kernel):
    store(dtype, places, count, frames, state).check(kernel)


# ---------------------------------------------------------------------------------------- products


def product(dtype: str, result: str, activation: str, adds: bool, rows: int, outputs: int, inputs: int) -> Call:
    rng = np.random.default_rng(rows)
    x = stored(rng.standard_normal((rows, inputs)), dtype)
    weight = stored(rng.standard_normal((outputs, inputs)) / np.sqrt(inputs), dtype)
    bias, add = rng.standard_normal(outputs, np.float32), rng.standard_normal((rows, outputs), np.float32)
    expected = ACTIVATIONS[activation](exact(x) @ exact(weight).T + bias) + adds * exact(add)
    arguments = {
        "output": unset((rows, outputs), result),
        "x": x,
        "weight": weight,
        "bias": bias,
        "add": add if adds else bias,
        "rows": np.int32(rows),
        "outputs": np.int32(outputs),
        "inputs": np.int32(inputs),
    }
    rows_at_once = 1 if rows == 1 else MOST_ROWS
    name = product_name(dtype, result, rows_at_once, activation, adds)
    return Call(name, (-(-outputs // WARPS), -(-rows // rows_at_once)), arguments, expected)


@pytest.mark.parametrize(("outputs", "inputs"), [(33, 512), (30, 240), (7, 8)])
@pytest.mark.parametrize("rows", [1, 3, 8, 9])
@pytest.mark.parametrize(("dtype", "result", "activation", "adds"), PRODUCTS)
def test_product(dtype, result, activation, adds, rows, outputs, inputs, kernel):
    product(dtype, result, activation, adds, rows, outputs, inputs).check(kernel)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_product_of_inputs_that_are_no_multiple_of_8_would_read_misaligned(rows, kernel):
    with pytest.raises(Fault, match=r"ld\.global\.nc\.v4.*misaligned"):
        product("bfloat16", "float32", "none", False, rows, 5, 260).run(kernel)


# ---------------------------------------------------------------------------------------- normalisation


def norm(dtype: str, rows: int, width: int) -> Call:
    rng, eps = np.random.default_rng(width), 0.125  # so large that it shows
    x = 3 * rng.standard_normal((rows, width), np.float32) + rng.standard_normal((rows, 1), np.float32)
    weight, bias = rng.standard_normal((2, width), np.float32)
    distances = exact(x) - exact(x).mean(-1, keepdims=True)
    expected = distances / np.sqrt((distances**2).mean(-1, keepdims=True) + eps) * weight + bias
    arguments = {
        "output": unset((rows, width), dtype),
        "x": x,
        "weight": weight.copy(),
        "bias": bias.copy(),
        "width": np.int32(width),
        "eps": np.float32(eps),
    }
    return Call(f"norm_kernel[DType.{dtype}]", rows, arguments, expected)


@pytest.mark.parametrize("width", [512, 1280, 200, 100])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_norm(dtype, rows, width, kernel):
    norm(dtype, rows, width).check(kernel)


# ---------------------------------------------------------------------------------------- mistakes

# Calls that read or write the last value of every array.
SMALL = {
    "slot_attention": lambda: slot_attention("bfloat16", [447], 1, count=1),
    "heard_attention": lambda: heard_attention("bfloat16", 20, [1, 0, 2]),
    "store": lambda: store("bfloat16", [0, 1], 2, 3, 100),
    "product": lambda: product("bfloat16", "float32", "none", True, 3, 6, 64),
    "product_of_one_row": lambda: product("bfloat16", "float32", "none", True, 1, 6, 64),
    "norm": lambda: norm("bfloat16", 2, 200),
}


@pytest.mark.parametrize("small", SMALL)
def test_an_argument_that_is_too_short_is_found(small, kernel):
    for number, (name, argument) in enumerate(SMALL[small]().arguments.items()):
        if isinstance(argument, np.ndarray):
            call = SMALL[small]()
            call.arguments[name] = argument.reshape(-1)[:-1]
            with pytest.raises(Fault, match=f" of argument {number}, outside of its {call.arguments[name].nbytes}"):
                call.run(kernel)


@pytest.mark.parametrize("small", SMALL)
def test_without_a_barrier_there_is_a_race(small, assembly):
    """Except for the first one of each sum of a block: the compiler gives every sum a place of its own."""
    call = SMALL[small]()
    text = assembly[RUN, call.name]
    barriers = [each.span() for each in re.finditer(r"bar\.sync\s+0;", text)]
    assert len(barriers) == {"slot_attention": 3, "heard_attention": 3, "norm": 4}.get(small, 0)
    for begin, end in barriers[1::2] if small == "norm" else barriers:
        without = Kernel(text[:begin] + text[end:])
        with pytest.raises(Fault, match="a race"):
            SMALL[small]().run(lambda name, without=without: without)
