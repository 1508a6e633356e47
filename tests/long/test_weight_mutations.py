"""Wrong weights under hashes that agree with them: the numbers name the layer, the audit names the tensor."""

import re
import shutil

import numpy as np
import pytest
import safetensors.numpy

import whisper2max
from whisper2max.artifact.artifact import open_artifact
from whisper2max.artifact.manifest import write_manifest
from whisper2max.graph.ir import PANEL
from whisper2max.parity import proof
from whisper2max.parity.taps import taps_of

# Every kind of weight of encoder and decoder; a layer is drawn for those that have one.
KINDS = [
    *(f"encoder.{name}" for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")),
    *("encoder.positional_embedding", "encoder.ln_post.weight", "encoder.ln_post.bias"),
    *(
        f"{side}.blocks.{{layer}}.{attention}{part}"
        for side, attentions in (("encoder", ["attn"]), ("decoder", ["attn", "cross_attn"]))
        for attention in attentions
        for part in (
            "_ln.weight",
            "_ln.bias",
            ".query.weight",
            ".query.bias",
            ".key.weight",
            ".value.weight",
            ".value.bias",
            ".out.weight",
            ".out.bias",
        )
    ),
    *(
        f"{side}.blocks.{{layer}}.{part}"
        for side in ("encoder", "decoder")
        for part in ("mlp_ln.weight", "mlp_ln.bias", "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")
    ),
    *("decoder.token_embedding.weight", "decoder.positional_embedding", "decoder.ln.weight", "decoder.ln.bias"),
]


class Remembered:
    """A reference that computes once: the checkpoint and the recording are the same for every mutation.

    What it is asked for tells its answers apart: two sequences are decoded besides the transcript.
    """

    def __init__(self, reference):
        self._reference = reference
        self._found = {}

    def __getattr__(self, name):
        return getattr(self._reference, name)

    def _once(self, method, *arguments):
        *inputs, taps, sink = arguments
        asked = method, *(each.tobytes() for each in inputs), *taps
        if asked not in self._found:
            values = []
            result = getattr(self._reference, method)(*inputs, taps, lambda *value: values.append(value))
            self._found[asked] = result, values
        result, values = self._found[asked]
        for value in values:
            sink(*value)
        return result

    def encode(self, *arguments):
        return self._once("encode", *arguments)

    def logits(self, *arguments):
        return self._once("logits", *arguments)

    def greedy(self, *arguments):
        if "greedy" not in self._found:
            self._found["greedy"] = self._reference.greedy(*arguments)
        return self._found["greedy"]


@pytest.fixture(scope="module", autouse=True)
def references_compute_once():
    """The weights of the artifact change, those of the checkpoint do not."""
    with pytest.MonkeyPatch.context() as patch:
        witness, judge = proof.Reference, proof.judge_of
        patch.setattr(proof, "Reference", cache_first(lambda *given: Remembered(witness(*given))))
        patch.setattr(proof, "judge_of", cache_first(lambda *given: Remembered(judge(*given))))
        yield


def cache_first(make):
    """`make`, called the first time only."""
    made = []

    def first(*given):
        if not made:
            made.append(make(*given))
        return made[0]

    return first


@pytest.fixture
def resealed(tiny_en_artifact, tmp_path):
    """Store changed weights in a copy of tiny.en, with a manifest that agrees."""
    shutil.copytree(tiny_en_artifact.path, tmp_path / "copy")
    weights = safetensors.numpy.load_file(tmp_path / "copy" / "weights.safetensors")

    def store(name, changed):
        safetensors.numpy.save_file({**weights, name: changed}, tmp_path / "copy" / "weights.safetensors")
        write_manifest(tmp_path / "copy", tiny_en_artifact.manifest)
        return open_artifact(tmp_path / "copy")

    return weights, store


def test_every_kind_of_weight_is_tried(tiny_en_artifact):
    assert len(KINDS) >= 40
    kinds = {re.sub(r"blocks\.\d+", "blocks.{layer}", name) for name in tiny_en_artifact.spec.parameters()}
    assert set(KINDS) == kinds


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.exhaustive if i % 4 else ()) for i, kind in enumerate(KINDS)]
)
def test_the_row_of_a_wrong_weight_is_named(resealed, kind):
    weights, store = resealed
    random = np.random.default_rng(KINDS.index(kind))
    name = kind.format(layer=random.integers(4))
    changed = weights[name].copy()
    perturb(changed, name, random)
    artifact = store(name, changed)
    report = whisper2max.verify(artifact.path)
    assert not report.passed
    row = report.first_divergent
    assert row is not None, f"{name}: nothing diverged"
    assert row.path == judged_as(artifact.spec, name), report.explanation()
    assert row.of_limit > 10, f"{name}: {row.of_limit}"
    assert [each.name for each in report.weights.different] == [name]


def judged_as(spec, name):
    """The value that a weight is judged through: that of its module, or the one of the kernel that it exists inside."""
    module = name.removesuffix(".weight").removesuffix(".bias")
    graphs = taps_of(spec)
    taps = [tap for graph in ("encoder", "audio", "extend") for tap in graphs[graph].values()]
    return next(tap.path for tap in taps if module == tap.path or module in tap.inside)


START_OF_TRANSCRIPT = 50257  # of tiny.en
# [out, in(, kernel)] of what no recording of ordinary length shows
OUT_OF_REACH = {
    "decoder.token_embedding.weight": (51864, 384),
    "encoder.conv1.weight": (384, 80, 3),
    "decoder.blocks.2.mlp.0.weight": (1536, 384),
}


@pytest.mark.parametrize("seed", range(6))
def test_the_audit_names_what_no_recording_shows(resealed, seed):
    weights, store = resealed
    random = np.random.default_rng(seed)
    name = list(OUT_OF_REACH)[seed % 3]
    out, inside, *frame = (int(random.integers(size)) for size in OUT_OF_REACH[name])
    if name == "decoder.token_embedding.weight":
        out = int(random.integers(30_000, 50_000))
    changed = weights[name].copy()
    column = frame[0] * OUT_OF_REACH[name][1] + inside if frame else inside
    place = out // PANEL, column, out % PANEL, 0
    changed[place] = np.nextafter(changed[place], np.float32(np.inf))
    report = whisper2max.verify(store(name, changed).path)
    assert not report.passed and report.first_divergent is None
    (difference,) = report.weights.different
    assert (difference.name, difference.count, difference.index) == (name, 1, (out, inside, *frame))
    assert difference.value == changed[place] > difference.expected


def perturb(weight, name, random):
    """Change one output channel of a weight, or one row of a table that the sample reaches.

    By a fifth of the tensor's own scale with random signs: a constant added to a row after a norm would cancel.
    """
    packed = weight.ndim == 4
    place = random.integers(weight.shape[0] * PANEL if packed else weight.shape[0])
    if name == "decoder.token_embedding.weight":
        place = START_OF_TRANSCRIPT
    part = (place // PANEL, slice(None), place % PANEL) if packed else place
    signs = random.choice(np.array([-1, 1], np.float32), weight[part].shape)
    weight[part] += 0.2 * np.abs(weight).max() * signs
