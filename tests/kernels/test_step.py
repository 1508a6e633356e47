"""The kernel of a step against the kernels that it joins, which have tests of their own: the same bits."""

import numpy as np
import pytest
from longhand import packed
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType

from whisper2max.runtime.weights import registry

# large enough that two threads share every kernel
STATE, WIDE, HEAD_DIM, FRAMES, CONTEXT = 256, 1024, 64, 75, 9
LAYERS, LAYER = 2, 1
HEADS = STATE // HEAD_DIM
CPU = DeviceRef.CPU()
SQUARES = ("query", "key", "value", "out", "cross_query", "cross_out")
LINEARS = dict.fromkeys(SQUARES, (STATE, STATE)) | {"up": (WIDE, STATE), "down": (STATE, WIDE)}
NORMS = ("norm", "cross_norm", "mlp_norm")


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8"])
def steps(request, compile_graph):
    """run(rows) -> pairs of what the joined kernel gives and the single ones give: the output, and both caches."""
    format_ = getattr(DType, request.param)
    word, scale_row = 4 // format_.size_in_bytes, int(format_ != DType.float32)
    x = TensorType(DType.float32, ["batch", 1, STATE], CPU)
    wide = TensorType(DType.float32, ["batch", 1, WIDE], CPU)
    cache = BufferType(DType.float32, [LAYERS, "batch", CONTEXT, STATE], CPU)
    types = {
        "x": x,
        "layer": TensorType(DType.int64, [1], CPU),
        "positions": TensorType(DType.int64, ["batch"], CPU),
        "frames": TensorType(DType.float32, ["batch", FRAMES, STATE], CPU),
        "eps": TensorType(DType.float32, [1], CPU),
    }
    for name in NORMS:
        types[name] = types[f"{name}_bias"] = TensorType(DType.float32, [STATE], CPU)
    for name, (n_out, n_in) in LINEARS.items():
        types[name] = TensorType(format_, [n_out // 32, n_in // word, 32, word], CPU)
        types[f"{name}_scales"] = TensorType(DType.float32, [n_out], CPU)
        types[f"{name}_sums"] = TensorType(DType.int32, [n_out], CPU)
        types[f"{name}_bias"] = TensorType(DType.float32, [n_out], CPU)
    types |= dict.fromkeys(("k", "v", "other_k", "other_v"), cache)

    def build(kernel, *inputs):
        given = dict(zip(types, inputs, strict=True))
        x, positions = given["x"], given["positions"]
        norm, cross_norm, mlp_norm = ([given[name], given[f"{name}_bias"], given["eps"]] for name in NORMS)
        linears = [[given[f"{name}{part}"] for part in ("", "_scales", "_sums", "_bias")] for name in LINEARS]
        query, key, value, out, cross_query, cross_out, up, down = linears
        shape = ["batch", HEADS, -(-FRAMES // 32), HEAD_DIM // word + scale_row, 32 * word]
        keys = kernel("pack_keys", [given["frames"]], TensorType(format_, shape, CPU), head_dim=HEAD_DIM)
        shape = ["batch", HEADS, HEAD_DIM // 32, -(-FRAMES // word) + scale_row, 32 * word]
        values = kernel("pack_values", [given["frames"]], TensorType(format_, shape, CPU), head_dim=HEAD_DIM)

        own = [*norm, *query, *key, *value, *out]
        parts = [given["layer"], *own, *cross_norm, *cross_query, *cross_out, *mlp_norm, *up, *down]
        caches = [given["k"], given["v"]]
        joined = kernel(
            "step_block",
            [x, *parts, positions, *caches, keys, values],
            x.type,
            in_place=True,
            head_dim=HEAD_DIM,
            frames=FRAMES,
            activation="gelu",
        )

        h = kernel("layer_norm", [x, *norm], x.type)
        q, k, v = (kernel("linear", [h, *linear], x.type, activation="none") for linear in (query, key, value))
        caches = [given["other_k"], given["other_v"]]
        y = kernel(
            "cached_attention", [q, k, v, positions, *caches], x.type, in_place=True, layer=LAYER, head_dim=HEAD_DIM
        )
        x = kernel("linear_add", [y, *out, x], x.type)
        h = kernel("layer_norm", [x, *cross_norm], x.type)
        q = kernel("linear", [h, *cross_query], x.type, activation="none")
        y = kernel("attention", [q, keys, values], x.type, head_dim=HEAD_DIM, frames=FRAMES)
        x = kernel("linear_add", [y, *cross_out, x], x.type)
        h = kernel("layer_norm", [x, *mlp_norm], x.type)
        y = kernel("linear", [h, *up], wide, activation="gelu")
        return [joined, kernel("linear_add", [y, *down, x], x.type)]

    graph = compile_graph(f"steps_{request.param}", list(types.values()), build)

    def run(rows, layer=LAYER):
        random = np.random.default_rng(rows)
        arrays = {
            "x": random.standard_normal((rows, 1, STATE), np.float32),
            "layer": np.array([layer]),
            "positions": random.integers(0, CONTEXT, rows),
            "frames": random.standard_normal((rows, FRAMES, STATE), np.float32),
            "eps": np.array([1e-5], np.float32),
        }
        for name in NORMS:
            arrays |= {part: random.standard_normal(STATE, np.float32) for part in (name, f"{name}_bias")}
        for name, (n_out, n_in) in LINEARS.items():
            weight = random.standard_normal((n_out, n_in), np.float32) / np.float32(np.sqrt(n_in))
            panels, *extra = packed(weight, request.param)
            scales, sums = extra or (np.zeros(n_out, np.float32), np.zeros(n_out, np.int32))
            bias = random.standard_normal(n_out, np.float32)
            arrays |= {name: panels, f"{name}_scales": scales, f"{name}_sums": sums, f"{name}_bias": bias}
        for name in ("k", "v"):
            arrays[name] = random.standard_normal((LAYERS, rows, CONTEXT, STATE), np.float32)
        arrays |= {f"other_{name}": arrays[name].copy() for name in ("k", "v")}
        bound = registry({name: arrays[name] for name in types})
        buffers = [each if isinstance(each, Buffer) else Buffer.from_numpy(each) for each in bound.values()]
        outputs = tuple(each.to_numpy() for each in graph.execute(*buffers))
        after = dict(zip(types, buffers, strict=True))
        caches = {name: (after[name].to_numpy(), after[f"other_{name}"].to_numpy()) for name in ("k", "v")}
        return {"output": outputs} | caches

    return run


@pytest.mark.parametrize("rows", [1, 2, 5, 14])
def test_a_joined_kernel_gives_what_the_single_ones_give(steps, rows):
    for name, (joined, single) in steps(rows).items():
        assert np.isfinite(joined).all() and joined.std() > 0, name
        np.testing.assert_array_equal(joined, single, err_msg=name)


def test_it_gives_the_same_however_the_threads_share_it(steps):
    first = steps(5)
    for _ in range(50):
        for name, (joined, _) in steps(5).items():
            np.testing.assert_array_equal(joined, first[name][0], err_msg=name)


def test_a_layer_that_the_caches_have_not_is_refused(steps):
    with pytest.raises(Exception, match="the caches hold fewer layers"):
        steps(1, layer=LAYERS)
