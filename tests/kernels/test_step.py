"""The kernel of a step against the kernels that it joins, which have tests of their own: the same bits."""

import re
from pathlib import Path

import numpy as np
import pytest
from longhand import packed
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType

import whisper2max.kernels
from whisper2max.kernels.operands import PARTS, STEP_LAYERS, STEP_VALUES, step_operands
from whisper2max.runtime.weights import registry

# large enough that two threads share every kernel
STATE, WIDE, HEAD_DIM, FRAMES, CONTEXT = 256, 1024, 64, 75, 9
LAYERS, LAYER, SLOTS, AUDIOS = 2, 1, 20, 3
HEADS = STATE // HEAD_DIM
CPU = DeviceRef.CPU()
WIDTHS = {"mlp.0": (WIDE, STATE), "mlp.2": (STATE, WIDE)}  # of other layers (STATE, STATE)


def test_the_operands_are_those_of_the_kernel():
    source = Path(whisper2max.kernels.__path__[0], "step.mojo").read_text()
    signature = source.partition("struct StepBlock")[2].partition("ctx: DeviceContext")[0]
    named = re.findall(r"^        (\w+): (?:Mutable)?InputTensor", signature, re.MULTILINE)
    assert named == step_operands()


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8"])
def steps(request, compile_graph, audio_pool):
    """run(rows, layer) -> pairs of what the joined kernel gives and the single ones give, by name."""
    format_ = getattr(DType, request.param)
    word = 4 // format_.size_in_bytes
    x = TensorType(DType.float32, ["rows", 1, STATE], CPU)
    wide = TensorType(DType.float32, ["rows", 1, WIDE], CPU)
    of_rows = TensorType(DType.int64, ["rows"], CPU)
    cache = BufferType(DType.float32, [SLOTS, LAYERS, CONTEXT, STATE], CPU)
    types = {"x": x, "layer": TensorType(DType.int64, [1], CPU)}
    of_part = {"scales": DType.float32, "sums": DType.int32}
    for kind, path in STEP_LAYERS:
        n_out, n_in = WIDTHS.get(path, (STATE, STATE))
        for part in PARTS[kind]:
            types[f"{path}.{part}"] = TensorType(of_part.get(part, DType.float32), [n_out], CPU)
        if kind == "norm":
            types[f"{path}.eps"] = TensorType(DType.float32, [1], CPU)
        else:
            types[f"{path}.weight"] = TensorType(format_, [n_out // 32, n_in // word, 32, word], CPU)
    types |= {"positions": of_rows, "slots": TensorType(DType.int32, ["rows", CONTEXT], CPU), "audios": of_rows}
    types |= {"cache_keys": cache, "cache_values": cache}
    pool = audio_pool(format_, FRAMES, LAYERS, HEADS, HEAD_DIM)
    types |= {"audio_keys": pool.types[0], "audio_values": pool.types[1], "other_keys": cache, "other_values": cache}

    def build(kernel, *inputs):
        given = dict(zip(types, inputs, strict=True))
        operands = inputs[: len(step_operands())]
        values_type = TensorType(DType.float32, [len(STEP_VALUES) - 1 + WIDE // STATE, "rows", STATE], CPU)
        parameters = {"head_dim": HEAD_DIM, "frames": FRAMES, "activation": "gelu"}
        joined = kernel("step_block", operands, x, values_type, in_place=True, **parameters)
        parts = {path: [given[f"{path}.{part}"] for part in PARTS[kind]] for kind, path in STEP_LAYERS}
        layer, residual, single = given["layer"], given["x"], {}

        def linear(path, h, activation="none", result=x):
            return kernel("linear", [h, *parts[path]], result, activation=activation)

        h = kernel("layer_norm", [residual, *parts["attn_ln"]], x)
        for name in ("query", "key", "value"):
            single[f"attn.{name}"] = linear(f"attn.{name}", h)
        where = [layer, given["positions"], given["slots"], given["other_keys"], given["other_values"]]
        projected = [single[f"attn.{name}"] for name in ("query", "key", "value")]
        y = kernel("cached_attention", [*projected, *where], x, in_place=True, head_dim=HEAD_DIM)
        single["attn.qkv_attention"] = y
        residual = single["attn.residual"] = kernel("linear_add", [y, *parts["attn.out"], residual], x)
        h = kernel("layer_norm", [residual, *parts["cross_attn_ln"]], x)
        query = single["cross_attn.query"] = linear("cross_attn.query", h)
        where = [layer, given["audios"], given["audio_keys"], given["audio_values"]]
        y = kernel("audio_attention", [query, *where], x, head_dim=HEAD_DIM, frames=FRAMES)
        single["cross_attn.qkv_attention"] = y
        residual = single["cross_attn.residual"] = kernel("linear_add", [y, *parts["cross_attn.out"], residual], x)
        h = kernel("layer_norm", [residual, *parts["mlp_ln"]], x)
        h = single["mlp.1"] = linear("mlp.0", h, "gelu", wide)
        output = kernel("linear_add", [h, *parts["mlp.2"], residual], x)
        return [*joined, output, *(single[path] for path in STEP_VALUES)]

    graph = compile_graph(f"steps_{request.param}", list(types.values()), build)

    def run(rows, layer=LAYER):
        random = np.random.default_rng(rows)
        arrays = {"x": random.standard_normal((rows, 1, STATE), np.float32), "layer": np.array([layer])}
        for kind, path in STEP_LAYERS:
            n_out, n_in = WIDTHS.get(path, (STATE, STATE))
            if kind == "norm":
                arrays |= {f"{path}.{part}": random.standard_normal(STATE, np.float32) for part in ("weight", "bias")}
                arrays[f"{path}.eps"] = np.array([1e-5], np.float32)
                continue
            weight = random.standard_normal((n_out, n_in), np.float32) / np.float32(np.sqrt(n_in))
            panels, *extra = packed(weight, request.param)
            scales, sums = extra or (np.zeros(n_out, np.float32), np.zeros(n_out, np.int32))
            bias = random.standard_normal(n_out, np.float32)
            parts = zip(PARTS[kind], (panels, scales, sums, bias), strict=True)
            arrays |= {f"{path}.{part}": each for part, each in parts}
        arrays["positions"] = random.integers(0, CONTEXT, rows)
        # positions before lie in slots that nobody writes now, as those that were shared do
        arrays["slots"] = random.integers(rows, SLOTS, (rows, CONTEXT)).astype(np.int32)
        arrays["slots"][np.arange(rows), arrays["positions"]] = random.permutation(rows)
        arrays["audios"] = random.integers(0, AUDIOS, rows)
        for name in ("keys", "values"):
            arrays[f"cache_{name}"] = random.standard_normal((SLOTS, LAYERS, CONTEXT, STATE), np.float32)
            arrays[f"other_{name}"] = arrays[f"cache_{name}"].copy()
        heard = [random.standard_normal((AUDIOS, FRAMES, STATE), np.float32) for _ in range(2)]
        pools = pool.filled(AUDIOS, *heard, LAYER, range(AUDIOS))
        arrays |= dict(zip(("audio_keys", "audio_values"), pools, strict=True))
        bound = registry({name: arrays[name] for name in types})
        buffers = [each if isinstance(each, Buffer) else Buffer.from_numpy(each) for each in bound.values()]
        output, values, expected, *singles = (each.to_numpy() for each in graph.execute(*buffers))
        pairs = {"output": (output, expected)}
        for i, (path, single) in enumerate(zip(STEP_VALUES, singles, strict=True)):
            joined = values[i] if path != STEP_VALUES[-1] else values[i:].reshape(rows, WIDE)
            pairs[path] = joined, single[:, 0]
        after = dict(zip(types, buffers, strict=True))
        for name in ("keys", "values"):
            pairs[name] = after[f"cache_{name}"].to_numpy(), after[f"other_{name}"].to_numpy()
        return pairs

    return run


@pytest.mark.parametrize("rows", [1, 2, 5, 14])
def test_a_joined_kernel_gives_what_the_single_ones_give(steps, rows):
    for name, (joined, single) in steps(rows).items():
        assert np.isfinite(joined).all() and joined.std() > 0, name
        np.testing.assert_array_equal(joined, single.reshape(joined.shape), err_msg=name)


def test_it_gives_the_same_however_the_threads_share_it(steps):
    first = steps(5)
    for _ in range(50):
        for name, (joined, _) in steps(5).items():
            np.testing.assert_array_equal(joined, first[name][0], err_msg=name)


def test_a_layer_that_the_caches_have_not_is_refused(steps):
    with pytest.raises(Exception, match="the caches hold fewer layers|holds other layers"):
        steps(1, layer=LAYERS)
