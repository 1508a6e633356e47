"""The rest of a window that no other window hears.

Whisper ends the text with the beginning of a segment that the window cuts off, and leaves that segment to the next
window. Where none follows, because the recording was cut at a pause, it is asked for here, and told if the model is
sure of it.
"""

from whisper2max.runtime.choice import Number
from whisper2max.runtime.hypotheses import Ending, Hypothesis, compression_ratio
from whisper2max.runtime.tokens import SECONDS_PER_TIMESTAMP, Tokenizer

# What openai-whisper takes for a failure: a mean log-probability below, a compression ratio above.
UNSURE_LOGPROB, REPETITIVE_RATIO = -1.0, 2.4


class TellTheRest:
    """An `EndRule`: a text that would end with the beginning of a segment goes on, until that proves to be guessed.

    Args:
        tokenizer: of the model.
        reach: seconds from the beginning of the window; a segment that begins later may be left out.
    """

    def __init__(self, tokenizer: Tokenizer, reach: float):
        self.reach = reach
        self._tokenizer = tokenizer
        self._eot, self._timestamps = tokenizer.special.eot, tokenizer.special.timestamps
        self._earliest_end = self._timestamps.start + reach / SECONDS_PER_TIMESTAMP

    def wants_more(self, hypothesis: Hypothesis) -> bool:
        begun = hypothesis.tokens[-2:]
        both_are_times = len(begun) == 2 and all(token in self._timestamps for token in begun)
        return both_are_times and begun[1] < self._earliest_end

    def end_refused(self, hypothesis: Hypothesis, logprob: Number) -> None:
        if hypothesis.passed is None:
            so_far = hypothesis.sum_logprob
            hypothesis.passed = Ending(len(hypothesis.tokens), so_far + logprob, so_far)

    def after(self, hypothesis: Hypothesis) -> None:
        passed = hypothesis.passed
        if passed is None:
            return
        told = [token for token in hypothesis.tokens[passed.n_tokens :] if token != self._eot]
        closed = told[-1] in self._timestamps
        logprob = hypothesis.sum_logprob - passed.before_the_end
        failed = compression_ratio(self._tokenizer.decode(told)) > REPETITIVE_RATIO
        failed = failed or (hypothesis.finished and not closed)
        if failed or (closed and logprob < UNSURE_LOGPROB * len(told)):
            hypothesis.end_at(passed, self._eot)
