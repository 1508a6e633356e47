"""The most probable token of those that may follow, on a CPU or a device; what runtime/choice.py does with arrays.

What may follow in a row is ten numbers, so that the logits need not leave the device:

    0       which of the masks [masks, vocabulary] names what never may
    1 .. 6  first id and end of three ranges that may not now
    7, 8    first id and end of those of which one is taken if together they are more probable than any other
    9       an id that is refused where it is the most probable; -1 for none

A block of threads has a row and reads its logits twice: for the most probable of three kinds, which are those that are
taken together, the one that may be refused, and all others; then for the sums of their exponentials. Where two are
equally probable the lower id is taken.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.primitives import warp
from std.math import exp, isnan, log
from std.memory import unsafe_stack_allocation
from std.utils.numerics import inf, nan, neg_inf

from .block import WARP, block_sum

comptime CHOOSERS = 512
"""Threads of a block."""

comptime NUMBERS = 10
"""That say what may follow in a row."""

comptime LOWEST = neg_inf[DType.float32]()


@fieldwise_init
struct Best(Copyable, TrivialRegisterPassable):
    """The most probable of some ids; -inf where there are none, NaN where one of them is."""

    var score: Float32
    var id: Int32

    @always_inline
    def take(mut self, score: Float32, id: Int32):
        """The more probable of this and another."""
        if isnan(score) or score > self.score or (score == self.score and id < self.id):
            self = Best(score, id) if not isnan(self.score) else self


@fieldwise_init
struct Sums(Copyable, TrivialRegisterPassable):
    """Sums of exponentials, with the highest logit of all taken off."""

    var together: Float32
    var others: Float32


@fieldwise_init
struct Answer(Copyable, TrivialRegisterPassable):
    """The token, its logit, its log-probability, and that of what was refused or NaN."""

    var token: Int32
    var score: Float32
    var logprob: Float32
    var refused: Float32

    @always_inline
    def store(self, answer: Pointer[mut=True, Float32, _]):
        """As four numbers; a float holds the ids of any vocabulary exactly."""
        answer.unsafe_store(Float32(self.token))
        answer.unsafe_offset(1).unsafe_store(self.score)
        answer.unsafe_offset(2).unsafe_store(self.logprob)
        answer.unsafe_offset(3).unsafe_store(self.refused)


@always_inline
def nothing() -> Best:
    """Of no ids."""
    return Best(LOWEST, Int32.MAX)


@always_inline
def number(asked: Pointer[Int32, _], which: Int) -> Int32:
    """One of the ten."""
    return asked.unsafe_offset(which).unsafe_load()


@always_inline
def may_follow(asked: Pointer[Int32, _], mask: Pointer[UInt8, _], id: Int32) -> Bool:
    """Whether an id is neither suppressed nor forbidden."""
    var may = mask.unsafe_offset(Int(id)).unsafe_load() == 0
    comptime for r in range(3):
        may = may and not number(asked, 1 + 2 * r) <= id < number(asked, 2 + 2 * r)
    return may


@always_inline
def is_together(asked: Pointer[Int32, _], id: Int32) -> Bool:
    """Whether an id is one of those that are taken together."""
    return number(asked, 7) <= id < number(asked, 8)


@always_inline
def answer_of(together: Best, others: Best, refusable: Best, sums: Sums) -> Answer:
    """The answer of the three kinds; the sums leave out the one that may be refused."""
    var all = others
    all.take(together.score, together.id)
    var without = all
    all.take(refusable.score, refusable.id)
    var most = all.score
    if isnan(most) or most == LOWEST or most == inf[DType.float32]():
        return Answer(all.id, most, nan[DType.float32](), nan[DType.float32]())
    var of_refusable = exp(refusable.score - most)
    var refused = nan[DType.float32]()
    var rest = others
    if refusable.score > LOWEST and all.id == refusable.id:
        refused = refusable.score - (most + log(sums.together + sums.others + of_refusable))
        all, of_refusable = without, Float32(0)
    else:
        rest.take(refusable.score, refusable.id)
    if together.score > LOWEST and most + log(sums.together) > rest.score:
        return Answer(together.id, together.score, together.score - (most + log(sums.together)), refused)
    var logprob = all.score - (most + log(sums.together + sums.others + of_refusable))
    return Answer(all.id, all.score, logprob, refused)


@always_inline
def block_best(mine: Best) -> Best:
    """The most probable over the threads of a block, in all of them; all must call it."""
    comptime warps = CHOOSERS // WARP
    var scores = unsafe_stack_allocation[warps, Float32, address_space=AddressSpace.SHARED]()
    var ids = unsafe_stack_allocation[warps, Int32, address_space=AddressSpace.SHARED]()
    var best = mine
    comptime for i in range(5):
        var score = warp.shuffle_xor(best.score, UInt32(1 << i))
        var id = warp.shuffle_xor(best.id, UInt32(1 << i))
        best.take(score, id)
    var tid = Int(thread_idx.x)
    barrier()  # what a call before this one wrote was read
    if tid % WARP == 0:
        scores[unsafe_offset=tid // WARP] = best.score
        ids[unsafe_offset=tid // WARP] = best.id
    barrier()
    comptime for i in range(warps):
        best.take(scores[unsafe_offset=i], ids[unsafe_offset=i])
    return best


def choose_kernel(
    answers: Pointer[Float32, MutAnyOrigin],
    logits: Pointer[Float32, ImmutAnyOrigin],
    asked_of_rows: Pointer[Int32, ImmutAnyOrigin],
    masks: Pointer[UInt8, ImmutAnyOrigin],
    vocabulary_: Int32,
):
    """The row of the block's number."""
    var vocabulary, row = Int(vocabulary_), Int(block_idx.x)
    var scores = logits.unsafe_offset(row * vocabulary)
    var asked = asked_of_rows.unsafe_offset(row * NUMBERS)
    var mask = masks.unsafe_offset(Int(number(asked, 0)) * vocabulary)
    var may_be_refused = number(asked, 9)
    var together, others, refusable = nothing(), nothing(), nothing()
    for i in range(Int(thread_idx.x), vocabulary, CHOOSERS):
        var id = Int32(i)
        if may_follow(asked, mask, id):
            var score = scores.unsafe_offset(i).unsafe_load()
            if is_together(asked, id):
                together.take(score, id)
            elif id == may_be_refused:
                refusable.take(score, id)
            else:
                others.take(score, id)
    together, others, refusable = block_best(together), block_best(others), block_best(refusable)
    var most = max(together.score, max(others.score, refusable.score))
    var sums = Sums(0, 0)
    if most > LOWEST:
        for i in range(Int(thread_idx.x), vocabulary, CHOOSERS):
            var id = Int32(i)
            if may_follow(asked, mask, id) and id != may_be_refused:
                var power = exp(scores.unsafe_offset(i).unsafe_load() - most)
                if is_together(asked, id):
                    sums.together += power
                else:
                    sums.others += power
    sums = Sums(block_sum[CHOOSERS](sums.together), block_sum[CHOOSERS](sums.others))
    if thread_idx.x == 0:
        answer_of(together, others, refusable, sums).store(answers.unsafe_offset(4 * row))


def choose_on_cpu(
    scores: Pointer[Float32, _], asked: Pointer[Int32, _], mask: Pointer[UInt8, _], vocabulary: Int
) -> Answer:
    """The same by one thread."""
    var may_be_refused = number(asked, 9)
    var together, others, refusable = nothing(), nothing(), nothing()
    for i in range(vocabulary):
        var id = Int32(i)
        if may_follow(asked, mask, id):
            var score = scores.unsafe_offset(i).unsafe_load()
            if is_together(asked, id):
                together.take(score, id)
            elif id == may_be_refused:
                refusable.take(score, id)
            else:
                others.take(score, id)
    var most = max(together.score, max(others.score, refusable.score))
    var of_together, of_others = Float64(0), Float64(0)
    if most > LOWEST:
        for i in range(vocabulary):
            var id = Int32(i)
            if may_follow(asked, mask, id) and id != may_be_refused:
                var power = exp(scores.unsafe_offset(i).unsafe_load() - most).cast[DType.float64]()
                if is_together(asked, id):
                    of_together += power
                else:
                    of_others += power
    var sums = Sums(of_together.cast[DType.float32](), of_others.cast[DType.float32]())
    return answer_of(together, others, refusable, sums)


@extensibility.register("whisper2max.choose")
struct Choose:
    """Shapes: logits [rows, vocabulary]; asked [rows, 10]; masks [masks, vocabulary], 0 where an id may follow; answers
    [rows, 4]: the token, its logit, its log-probability, and that of what was refused or NaN.

    On a device the masks that rows ask for are trusted: who calls has to check them.
    """

    @staticmethod
    def execute[
        target: StaticString
    ](
        answers: OutputTensor[dtype=DType.float32, rank=2, ...],
        logits: InputTensor[dtype=DType.float32, rank=2, ...],
        asked: InputTensor[dtype=DType.int32, rank=2, ...],
        masks: InputTensor[dtype=DType.uint8, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var rows, vocabulary = logits.dim_size(0), logits.dim_size(1)
        if asked.dim_size(0) != rows or asked.dim_size(1) != NUMBERS or masks.dim_size(1) != vocabulary:
            raise Error("whisper2max.choose: rows are asked for in other numbers, or masks are of another vocabulary")
        comptime if target == "gpu":
            ctx.enqueue_function[choose_kernel](
                answers.unsafe_ptr(),
                logits.unsafe_ptr(),
                asked.unsafe_ptr(),
                masks.unsafe_ptr(),
                Int32(vocabulary),
                grid_dim=rows,
                block_dim=CHOOSERS,
            )
        else:
            for row in range(rows):
                var of_row = asked.unsafe_ptr().unsafe_offset(row * NUMBERS)
                var mask = Int(number(of_row, 0))
                if not 0 <= mask < masks.dim_size(0):
                    raise Error("whisper2max.choose: a row asks for a mask that is not there")
                var answer = choose_on_cpu(
                    logits.unsafe_ptr().unsafe_offset(row * vocabulary),
                    of_row,
                    masks.unsafe_ptr().unsafe_offset(mask * vocabulary),
                    vocabulary,
                )
                answer.store(answers.unsafe_ptr().unsafe_offset(4 * row))
