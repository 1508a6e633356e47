"""Prove sources, weights and compiled graphs against the module they came from."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from whisper2max.build.target import Target
from whisper2max.checkpoints import Checkpoint
from whisper2max.core.errors import ParityError
from whisper2max.core.held import HeldFiles
from whisper2max.graph import passes
from whisper2max.graph.ir import GraphSpec
from whisper2max.graph.walker import WalkedModule
from whisper2max.parity.audit import audit
from whisper2max.parity.environment import environment, hashes
from whisper2max.parity.gate import judge
from whisper2max.parity.kept import Keeper
from whisper2max.parity.layers import References
from whisper2max.parity.reference import Reference, judge_of
from whisper2max.parity.report import ParityReport, WeightAudit
from whisper2max.parity.tapped import BlockGraphs, TappedGraphs
from whisper2max.runtime.engine import Engine
from whisper2max.runtime.tokens import Tokenizer

_MOST_TEXT = 16 << 20
Inputs = Sequence[tuple[str, np.ndarray]]


def prove(
    files: HeldFiles,
    source: Checkpoint,
    walked: WalkedModule,
    dtype: str,
    target: Target,
    inputs: Inputs,
    versions: dict[str, str],
    say: Callable[[str], None],
    isolated: bool = False,
    keep_to: Path | None = None,
) -> ParityReport:
    """Audit the weights and compare the graphs with the module they came from.

    Args:
        files: model.py, graph.txt, kernels/*.mojo, weights.safetensors and the four compiled graphs, held. Whoever
            records the result requires first that they are unchanged.
        source: the checkpoint.
        walked: what the walk of its module found.
        dtype: of the artifact.
        target: what its graphs were compiled for; the tapped ones are too.
        inputs: names and float32 samples at 16 kHz.
        versions: of everything that had a part, for the record.
        say: told about every stage.
        isolated: compare every block on the reference's own inputs too.
        keep_to: a directory to write reference.safetensors to, for a replay.

    Raises:
        ParityError: graph.txt has other attributes than the module, such as the epsilon of a norm;
            or a comparison would prove nothing.
    """
    spec, weights = _audited(files, walked, dtype)
    tapped = TappedGraphs(files, spec, target, say)
    blocks = BlockGraphs(files, spec, target, say) if isolated else None
    say("comparing the compiled graphs with PyTorch, layer by layer and as they ship")
    references = References(judge_of(source.module, walked), Reference(source.module, walked))
    tokenizer = Tokenizer.from_json(source.tokenizer_json, source.dims.n_vocab)
    engine = Engine(files, source.dims)
    keeper = Keeper() if keep_to else None
    rows, tokens, described = judge(engine, tapped, blocks, references, spec, tokenizer, inputs, keeper)
    if keeper is not None:
        keeper.write(keep_to, references.judge.description)
    return ParityReport(
        dtype=dtype,
        reference=references.judge.description,
        witness=references.witness.description,
        inputs=described,
        rows=rows,
        tokens=tokens,
        weights=weights,
        environment=environment(versions),
        hashes=hashes(files),
    )


def _audited(files: HeldFiles, walked: WalkedModule, dtype: str) -> tuple[GraphSpec, WeightAudit]:
    """The network, and the verdict on its weights; the packed tensors, as large as the module, are gone afterwards."""
    spec, tensors = passes.apply(dtype, walked.spec, walked.tensors)
    _require_same_graph(files, spec)
    return spec, audit(files["weights.safetensors"], passes.as_stored(tensors), walked.source_paths)


def _require_same_graph(files: HeldFiles, spec: GraphSpec) -> None:
    """Refuse a graph.txt, which model.py was generated from, that is not what the walk found."""
    stored = GraphSpec.parse(files["graph.txt"].read(_MOST_TEXT).decode("utf-8"))
    if stored == spec:
        return
    both = stored.nodes.keys() | spec.nodes.keys()
    wrong = [path for path in sorted(both) if stored.nodes.get(path) != spec.nodes.get(path)]
    listed = "; ".join(f"{path}: {stored.nodes.get(path)}, the module has {spec.nodes.get(path)}" for path in wrong[:5])
    raise ParityError(f"graph.txt is not the network of the module: {listed or (stored.dims, stored.dtype)}")
