"""Sources, weights and compiled graphs against the torch module they came from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from whisper2max.parity.comparison import compare_windows, environment, hashes
from whisper2max.parity.figures import Figures, Place, Row, compare, measure, require_usable
from whisper2max.parity.graphs import BlockGraphs, ShippedGraphs, TappedGraphs, Values
from whisper2max.parity.inputs import Transcript, Window, greedy_limit, prompt_of, window_of
from whisper2max.parity.kept import Keeper
from whisper2max.parity.reference import Reference, Sink, judge_of, reference_log_mel
from whisper2max.parity.report import ParityReport
from whisper2max.parity.runs import MAIN, Run, states_of, tokens_of
from whisper2max.parity.taps import Tap, taps_of
from whisper2max.parity.tolerances import TOLERANCES
from whisper2max.runtime.engine import Engine
from whisper2max.runtime.tokens import Tokenizer

_MOST_TEXT = 16 << 20
Inputs = Sequence[tuple[str, np.ndarray]]
Execute = Callable[[Reference, Sequence[Tap], Sink], np.ndarray]


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
    gpu: int | None = None,
    also: Sequence[str] = (),
) -> ParityReport:
    """Audit the weights and compare the graphs with the module they came from.

    Args:
        files: model.py, graph.txt, kernels/*.mojo, weights.safetensors and the compiled graphs, held. Whoever
            records the result requires first that they are unchanged.
        source: the checkpoint.
        walked: what the walk of its module found.
        dtype: of the artifact.
        target: what its graphs were compiled for. Those with their values as outputs are too; or, where that is a GPU
            which is not used, the same network for this CPU, which is judged alone.
        inputs: names and float32 samples at 16 kHz.
        versions: of everything that had a part, for the record.
        say: told about every stage.
        isolated: compare every block on the reference's own inputs too.
        keep_to: a directory to write reference.safetensors to, for a replay.
        gpu: number of the GPU to judge the graphs on, if they were compiled for one; None for this CPU.
        also: names of further GPUs that there are graphs for, which the same network stands for on a CPU.

    Raises:
        ParityError: graph.txt has other attributes than the module, such as the epsilon of a norm;
            or a comparison would prove nothing.
    """
    spec = _required_spec(files, walked, dtype, target.backend)
    weights = audit(files["weights.safetensors"], dtype, _Arrays(walked), walked.source_paths, target.backend)
    ships = target.gpu is None or gpu is not None
    judged = target if ships else target.judged
    tapped = TappedGraphs(files, spec, judged, say, gpu)
    blocks = BlockGraphs(files, spec, judged, say, gpu) if isolated else None
    graphs = "the compiled graphs" if ships else f"the network, compiled for this CPU instead of {target.name},"
    say(f"comparing {graphs} with PyTorch, layer by layer{' and as they ship' if ships else ''}")
    judge, witness = judge_of(source.module, walked), Reference(source.module, walked)
    tokenizer = Tokenizer.from_json(source.tokenizer_json, source.dims.n_vocab)
    keeper = Keeper() if keep_to else None
    standard = PyTorch(judge, witness, spec, tokenizer, inputs, blocks, keeper)
    shipped = [ShippedGraphs(Engine(files, source.dims, gpu=gpu))] if ships else []
    found = compare_windows([*shipped, tapped], standard, spec, tokenizer, TOLERANCES[dtype])
    if keeper is not None:
        keeper.write(keep_to, judge.description)
    return ParityReport(
        dtype=dtype,
        reference=judge.description,
        witness=witness.description,
        found=found,
        weights=weights,
        environment=environment(versions),
        hashes=hashes(files),
        not_executed="" if ships else " and ".join([target.name, *also]),
    )


class PyTorch:
    """The module that the graphs came from as the standard: the judge in float64, the witness in float32.

    Args:
        judge: judges every value.
        witness: its error is the unit of the limits, its tokens are those that the decoder is fed.
        spec: of the walked module, after the passes; its values are expected, all of them.
        tokenizer: gives the prompt and end of text.
        inputs: names and float32 samples at 16 kHz.
        blocks: single blocks, to compare them on the judge's own inputs too; None to leave that out.
        keeper: collects parts of the judge's values for a later replay; None to keep nothing.
    """

    def __init__(
        self,
        judge: Reference,
        witness: Reference,
        spec: GraphSpec,
        tokenizer: Tokenizer,
        inputs: Inputs,
        blocks: BlockGraphs | None,
        keeper: Keeper | None,
    ):
        self._both = judge, witness
        self._spec = spec
        self._taps = taps_of(spec)
        self._limits = TOLERANCES[spec.dtype]
        self._tokenizer = tokenizer
        self._inputs = inputs
        self._blocks = blocks
        self._keeper = keeper
        self._mel = np.empty(0, np.float32)
        self._states: dict[Reference, np.ndarray] = {}

    def windows(self) -> Iterator[Window]:
        """The recordings."""
        return (window_of(name, samples, self._spec.dims) for name, samples in self._inputs)

    def features(self, window: Window, got: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both sides are fed the features of the graph that ships, which transformers' extractor judges."""
        return got, reference_log_mel(window.samples, self._spec.dims.n_mels)

    def encoder(self, window: Window, mel: np.ndarray, runs: Sequence[Run]) -> list[Row]:
        """Judge every value of the encoder."""
        self._mel = mel

        def encode(reference: Reference, taps: Sequence[Tap], sink: Sink) -> np.ndarray:
            self._states[reference] = reference.encode(mel[None], taps, sink)
            return self._states[reference]

        return self._judge(encode, runs)

    def transcript(self, window: Window) -> Transcript:
        """What the witness hears."""
        witness, dims = self._both[1], self._spec.dims
        prompt = prompt_of(self._tokenizer)
        limit, eot = greedy_limit(prompt, dims), self._tokenizer.special.eot
        return Transcript(prompt, witness.greedy(prompt, self._states[witness], limit, eot), dims.n_text_ctx)

    def decoder(self, window: Window, transcript: Transcript, runs: Sequence[Run]) -> list[Row]:
        """Judge every value of the decoder, one sequence after the other, and blocks by themselves."""
        rows = []
        for sequence, tokens in tokens_of(transcript).items():
            decode = self._decoding(tokens, {each: states_of(sequence, self._states[each]) for each in self._both})
            rows += self._judge(decode, [run for run in runs if run.sequence == sequence])
        if self._blocks is not None:
            rows += self._judge_blocks(self._blocks, window.name, tokens_of(transcript)[MAIN])
        if self._keeper is not None:
            self._keeper.keep_window(window, self._mel, transcript)
        return rows

    def _decoding(self, tokens: np.ndarray, states: Mapping[Reference, np.ndarray]) -> Execute:
        def decode(reference: Reference, taps: Sequence[Tap], sink: Sink) -> np.ndarray:
            return reference.logits(tokens[None], states[reference], taps, sink)

        return decode

    def _judge(self, execute: Execute, runs: Sequence[Run]) -> list[Row]:
        """Judge what some runs gave; every value is let go as soon as it is judged."""
        judge, witness = self._both
        taps = {tap.path: tap for run in runs for tap in self._taps[run.place.graph].values() if tap.path in run.values}
        rows: list[Row] = []
        errors: Values = {}

        def keep(path: str, value: np.ndarray, variance: tuple[float, float] | None) -> None:
            errors[path] = value

        def compare_all(path: str, value: np.ndarray, variance: tuple[float, float] | None) -> None:
            torch = errors.pop(path)
            of_all = self._error_of_torch(path, runs[0].place.input, torch, value)
            for run in runs:
                if path in run.values:
                    got, positions = run.values.pop(path), run.positions_of(path)
                    exact, error = value, of_all
                    if positions is not None:
                        exact = value[:, positions]
                        of_some = self._error_of_torch(path, run.place.input, torch[:, positions], exact)
                        error = _larger(of_all, of_some)
                    rows.append(self._row(run.place, path, got, exact, error, positions, variance))

        execute(witness, list(taps.values()), keep)
        execute(judge, list(taps.values()), compare_all)
        left = [path for run in runs for path in run.values]
        if left:
            raise ParityError(f"{len(left)} values of the graphs were compared with nothing: {', '.join(left[:5])}")
        return rows

    def _error_of_torch(self, path: str, input: str, torch: np.ndarray, exact: np.ndarray) -> Figures:
        """How far torch float32 is from float64.

        Raises:
            ParityError: the comparison would prove nothing, or the two references are not the same network.
        """
        judge, witness = self._both
        require_usable(path, input, torch, exact)
        error = measure(torch, exact)
        if not error.rel_rmse <= self._limits.witness_rel_rmse:
            raise ParityError(
                f"{path} on {input}: {witness.description} is {error.rel_rmse:.1e} away from "
                f"{judge.description}, more than rounding; the references are not the same network"
            )
        return error

    def _row(
        self,
        place: Place,
        path: str,
        got: np.ndarray,
        exact: np.ndarray,
        error: Figures,
        positions: np.ndarray | None = None,
        variance: tuple[float, float] | None = None,
    ) -> Row:
        """Judge `got` by `exact`, both [1, frames or tokens, width], in units of an error of torch.

        Raises:
            ParityError: the comparison would prove nothing.
        """
        witness = self._both[1]
        tap = self._taps[place.graph][path]
        sources = [witness.source_path(each) for each in (path, *tap.inside)]
        row = compare(
            tap,
            place,
            got=got,
            reference=exact,
            limits=self._limits.limits(error.max_abs, error.rel_rmse, one_position=got.shape[1] == 1),
            positions=positions,
            source_path=next((source for source in sources if source), None),
            torch=error,
            variance=variance,
        )
        if self._keeper is not None:
            self._keeper.keep(row, exact)
        return row

    def _judge_blocks(self, graphs: BlockGraphs, input: str, tokens: np.ndarray) -> list[Row]:
        """Blocks by themselves, each fed the judge's own inputs: an error is blamed on the block that makes it.

        The judge rounds the input of every block to float32, which both float32 sides can then be given exactly.
        """

        def encode(reference: Reference, taps: Sequence[Tap], sink: Sink) -> np.ndarray:
            return reference.encode(self._mel[None], taps, sink)

        judge, _ = self._both
        rows, states = self._judge_side("encoder", graphs.encoder_block, encode, Place("isolated", "encoder", input))
        heard = states.astype(np.float32)
        decode = self._decoding(tokens, dict.fromkeys(self._both, heard))

        def run_block(layer: int, x: np.ndarray) -> Values:
            return graphs.decoder_block(layer, x, heard)

        more, _ = self._judge_side("decoder", run_block, decode, Place("isolated", "extend", input))
        return rows + more

    def _judge_side(
        self, side: str, run_block: Callable[[int, np.ndarray], Values], execute: Execute, place: Place
    ) -> tuple[list[Row], np.ndarray]:
        """Rows of the blocks of one half of the network, and what the judge made of the whole half."""
        judge, witness = self._both
        taps = [tap for path, tap in self._taps[place.graph].items() if path.startswith(f"{side}.blocks.")]
        blocks = list(dict.fromkeys(".".join(tap.path.split(".")[:3]) for tap in taps))
        entering: Values = {}
        exact: dict[str, tuple[np.ndarray, tuple[float, float] | None]] = {}
        torch: Values = {}

        def remember(path: str, values: np.ndarray) -> np.ndarray:
            entering[path] = values.astype(np.float32)
            return entering[path]

        def keep_exact(path: str, value: np.ndarray, variance: tuple[float, float] | None) -> None:
            exact[path] = value, variance

        def keep_torch(path: str, value: np.ndarray, variance: tuple[float, float] | None) -> None:
            torch[path] = value

        with judge.replacing(remember, blocks):
            result = execute(judge, taps, keep_exact)
        with witness.replacing(lambda path, _: entering[path], blocks):
            execute(witness, taps, keep_torch)
        rows = []
        for layer, block in enumerate(blocks):
            for path, got in run_block(layer, entering[block]).items():
                value, variance = exact.pop(path)
                error = self._error_of_torch(path, place.input, torch.pop(path), value)
                rows.append(self._row(place, path, got, value, error, variance=variance))
        if exact or not blocks:
            raise ParityError(f"{len(exact)} values of single blocks were compared with nothing: {', '.join(exact)}")
        return rows, result


def _larger(of_all: Figures, of_some: Figures) -> Figures:
    """The unit for some tokens of a sequence, in which torch may by luck be much closer than in all of it."""
    return replace(
        of_some,
        max_abs=max(of_all.max_abs, of_some.max_abs),
        rel_rmse=max(of_all.rel_rmse, of_some.rel_rmse),
    )


@dataclass(frozen=True)
class _Arrays(Mapping[str, np.ndarray]):
    """The walked tensors, each as float32 when it is asked for."""

    walked: WalkedModule

    def __getitem__(self, name: str) -> np.ndarray:
        return self.walked.tensors[name].float().numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.walked.tensors)

    def __len__(self) -> int:
        return len(self.walked.tensors)


def _required_spec(files: HeldFiles, walked: WalkedModule, dtype: str, backend: str) -> GraphSpec:
    """The network after the passes of the dtype; refuse a graph.txt, which model.py came from, that is another."""
    # on the meta device: the passes say how weights are packed, and pack none
    shapes = {name: tensor.to("meta") for name, tensor in walked.tensors.items()}
    spec, _ = passes.apply(dtype, walked.spec, shapes, backend)
    stored = GraphSpec.parse(files["graph.txt"].read(_MOST_TEXT).decode("utf-8"))
    if stored == spec:
        return spec
    both = stored.nodes.keys() | spec.nodes.keys()
    wrong = [path for path in sorted(both) if stored.nodes.get(path) != spec.nodes.get(path)]
    listed = "; ".join(f"{path}: {stored.nodes.get(path)}, the module has {spec.nodes.get(path)}" for path in wrong[:5])
    raise ParityError(f"graph.txt is not the network of the module: {listed or (stored.dims, stored.dtype)}")
