"""The values to compare follow from the spec alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import VARIANTS, packed_spec

from whisper2max.graph.emit import emit
from whisper2max.graph.ir import DTYPES, GraphSpec
from whisper2max.graph.source import load_source
from whisper2max.parity.taps import block_taps, data_paths, graph_taps, taps_of

OF_ATTENTION = ["attn_ln", "attn.query", "attn.key", "attn.value", "attn.qkv_attention", "attn.residual"]
OF_MLP = ["mlp_ln", "mlp.1"]
SIDES = ("encoder", "decoder")
CROSSED = [f"cross_{each}" for each in OF_ATTENTION]
OF_AUDIO = ["cross_attn.key", "cross_attn.value"]


@pytest.fixture(autouse=True)
def variables_for_children():
    """Importing max.nn sets variables of Python, past os.environ: a child would be one of another environment."""
    yield
    for name in ("PYTHONEXECUTABLE", "PYTHONPATH", "MOJO_PYTHON_LIBRARY"):
        os.unsetenv(name)
        if name in os.environ:
            os.putenv(name, os.environ[name])


@pytest.fixture(scope="module")
def kernels(tmp_path_factory, repository):
    """Parsed once: a builder takes four seconds for it."""
    parsed = tmp_path_factory.mktemp("parsed") / "kernels.mojoc"
    mojo = Path(sys.executable).with_name("mojo")
    subprocess.run([mojo, "precompile", repository / "kernels", "-o", parsed], check=True, capture_output=True)
    return parsed


def spec(variant: str, dtype: str = "float32", backend: str = "cpu") -> GraphSpec:
    return packed_spec(VARIANTS[variant], dtype, backend)


def within(block: str, names: list[str]) -> list[str]:
    return [*(f"{block}.{name}" for name in names), block]


def test_values_are_in_data_order():
    graphs = graph_taps(spec("turbo_unequal_depth"))
    assert list(graphs) == ["encoder", "audio", "extend", "step"]
    blocks = [path for layer in range(3) for path in within(f"encoder.blocks.{layer}", [*OF_ATTENTION, *OF_MLP])]
    stem = ["encoder.conv1.gelu", "encoder.positional_embedding"]
    assert graphs["encoder"] == [*stem, *blocks, "encoder.ln_post"]
    assert graphs["audio"] == [f"decoder.blocks.0.{each}" for each in OF_AUDIO]
    start, end = ["decoder.token_embedding", "decoder.positional_embedding"], ["decoder.ln", "decoder.logits"]
    crossed = [each for each in CROSSED if each not in OF_AUDIO]
    block = within("decoder.blocks.0", [*OF_ATTENTION, *crossed, *OF_MLP])
    assert graphs["extend"] == [*start, *block, *end]
    assert graphs["step"] == [*start, *(path for path in block if not path.endswith("_ln")), *end]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("graphs", [("encoder", "audio", "extend"), ("encoder", "audio", "step")])
def test_every_module_gives_a_value_or_is_named_inside_a_kernel(variant, graphs):
    described = spec(variant)
    taps = [tap for graph in graphs for tap in taps_of(described)[graph].values()]
    outputs = [tap.module for tap in taps if tap.side == "output"] + [path for tap in taps for path in tap.inside]
    tables = ["encoder.positional_embedding", "decoder.positional_embedding"]
    owners = {name.removesuffix(".weight").removesuffix(".bias") for name in unpacked(described)}
    assert owners - set(outputs) == set(tables) and set(tables) < {tap.path for tap in taps}
    assert len(outputs) == len(set(outputs)), "and once"


def unpacked(described: GraphSpec) -> list[str]:
    return [name for name in described.parameters() if not name.endswith(("_scales", "_sums"))]


def test_what_exists_only_inside_a_kernel_is_named_with_what_it_leads_to():
    graphs = taps_of(spec("multilingual_80_mels"))
    block = "decoder.blocks.1"
    assert graphs["extend"][f"{block}.attn.residual"].inside == (f"{block}.attn.out",)
    assert graphs["extend"][f"{block}.attn.residual"].kernel == "linear_add"
    assert graphs["extend"][f"{block}.mlp.1"].inside == (f"{block}.mlp.0",)
    assert graphs["extend"][block].inside == (f"{block}.mlp.2",)
    assert graphs["encoder"]["encoder.conv1.gelu"].inside == ("encoder.conv1",)
    assert graphs["encoder"]["encoder.positional_embedding"].inside == ("encoder.conv2",)
    assert graphs["step"][f"{block}.attn.query"].inside == (f"{block}.attn_ln",)
    assert graphs["step"][f"{block}.mlp.1"].inside == (f"{block}.mlp_ln", f"{block}.mlp.0")
    assert {tap.kernel for path, tap in graphs["step"].items() if ".blocks." in path} == {"step_block"}


def test_every_kernel_that_is_named_is_one_of_ours(repository):
    source = "".join(path.read_text() for path in (repository / "kernels").glob("*.mojo"))
    registered = set(re.findall(r'register\("whisper2max\.(\w+)"\)', source))
    named = {kernel for taps in taps_of(spec("multilingual_80_mels")).values() for tap in taps.values()
             for kernel in tap.kernel.split(" + ")}
    assert named <= registered and len(named) >= 9


@pytest.mark.parametrize(("dtype", "backend"), [*((dtype, "cpu") for dtype in DTYPES), ("bfloat16", "max")])
def test_the_generated_builders_offer_exactly_these_values(tmp_path, kernels, dtype, backend):
    described = spec("turbo_unequal_depth", dtype, backend)
    on_device = {"device": "cpu"} if backend == "max" else {}
    (tmp_path / "model.py").write_text(emit(described))
    model = load_source(tmp_path / "model.py")
    expected = {**graph_taps(described), **{f"{side}_block": list(block_taps(described, side)) for side in SIDES}}
    for name, paths in expected.items():
        graph = model.BUILDERS[name](kernels=kernels, taps=paths, **on_device)
        others = set(graph.values) - set(paths)
        # a tensor that no module of a torch tree has
        assert others == ({"encoder.conv2.gelu"} if name == "encoder" else set()), name
        assert len(graph.output_types) == len(paths) + (name != "audio")


def test_the_network_of_the_gpus_has_the_same_values_and_none_in_a_fused_step():
    ours, theirs = taps_of(spec("multilingual_80_mels")), taps_of(spec("multilingual_80_mels", "bfloat16", "max"))
    assert {graph: list(taps) for graph, taps in ours.items() if graph != "step"} == {
        graph: list(taps) for graph, taps in theirs.items() if graph != "step"
    }
    assert theirs["step"] == theirs["extend"]
    assert theirs["extend"]["decoder.blocks.0.attn.qkv_attention"].kernel == "slot_attention"
    assert theirs["audio"]["decoder.blocks.0.cross_attn.key"].kernel == "matmul"


def test_a_builder_refuses_a_value_that_it_does_not_have(tmp_path, kernels):
    (tmp_path / "model.py").write_text(emit(spec("english_80_mels")))
    model = load_source(tmp_path / "model.py")
    with pytest.raises(ValueError, match=re.escape("no value of graph encoder is called encoder.blocks.1")):
        model.BUILDERS["encoder"](kernels=kernels, taps=["encoder.blocks.1"])


def test_values_of_all_graphs_have_one_order():
    described = spec("multilingual_80_mels")
    order = data_paths(described)
    assert len(order) == len(set(order)) and order[0] == "log_mel" and order[-1] == "decoder.logits"
    for paths in graph_taps(described).values():
        assert paths == [path for path in order if path in set(paths)]
