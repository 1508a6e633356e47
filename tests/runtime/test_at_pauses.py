"""Windows cut at pauses: what is told in which order, whichever window ends first."""

import numpy as np
import pytest
from told import GivenSpectrogram, Told

from whisper2max.runtime.at_pauses import WINDOWS_AHEAD, AtPauses
from whisper2max.runtime.hypotheses import DecodingResult
from whisper2max.runtime.options import TranscriptionOptions
from whisper2max.runtime.results import Segment
from whisper2max.runtime.windows import Heard

BEGIN = 50364
AT = BEGIN + 50  # a second


def result(tokens: list[int], avg_logprob: float = -0.5, no_speech_prob: float = 0.1) -> DecodingResult:
    return DecodingResult("en", None, tokens, "", avg_logprob, no_speech_prob, 0.0, 1.5)


def segments_of(tokenizer, cuts, said, at_once=1, rng=None) -> tuple[list[Segment], Told]:
    """The segments that come of what is said in each window, and what was asked of the loop."""
    recording = GivenSpectrogram(np.zeros((80, cuts[-1][1] + 3000), np.float32))
    heard = Heard(recording, tokenizer, TranscriptionOptions(), 3000, "en")
    cutter = AtPauses(heard, list(cuts), [11, 12], at_once)
    assert cutter.first() == cuts[0]
    told = Told(lambda window: said(window.seek, window.end), at_once, rng)
    return [segment for window, of_it in told.run(cutter) for segment in cutter.take(window, of_it)], told


CUTS = [(0, 1000), (1500, 2000), (2500, 3000), (3000, 3500)]
SAID = {
    (0, 1000): [BEGIN, 1, AT, AT, 2],
    (100, 1000): [BEGIN, 4, AT + 380, AT + 380],
    # (960, 1000) is not asked for: less than half a second is left
    (1500, 2000): [BEGIN, 3, AT + 50],
    (2500, 3000): [BEGIN, 5, AT + 400, AT + 400],
    (3000, 3500): [BEGIN, 1, AT, AT, 2],
    (3100, 3500): [],
}
EXPECTED = [(0, 0, 1, 1), (1, 100, 4, 9.6), (2, 1500, 3, 17), (3, 2500, 5, 30), (4, 3000, 1, 31)]


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(6))
def test_the_rest_of_a_window_is_heard_and_told_in_its_place(multilingual_tokenizer, at_once, seed):
    rng = np.random.default_rng(seed)
    segments, told = segments_of(multilingual_tokenizer, CUTS, lambda *cut: result(SAID[cut]), at_once, rng)
    found = [(segment.id, segment.seek, segment.tokens[1], round(segment.end, 6)) for segment in segments]
    assert found == EXPECTED
    assert sorted((window.seek, window.end) for window in told.windows) == sorted(SAID)
    assert max(told.under_way) == min(at_once, 4)
    for window in told.windows:
        assert window.end_rule.reach == (window.end - window.seek - 50) / 100
        assert window.options.prompt == [11, 12] and window.options.language == "en"


def test_a_rest_comes_before_the_windows_after_it(multilingual_tokenizer):
    _, told = segments_of(multilingual_tokenizer, CUTS, lambda *cut: result(SAID[cut]), at_once=2)
    assert [window.seek for window in told.windows] == [0, 1500, 100, 2500, 3000, 3100]


def test_segments_are_told_when_all_before_them_are(multilingual_tokenizer):
    heard = Heard(GivenSpectrogram(np.zeros((80, 9000), np.float32)), multilingual_tokenizer, TranscriptionOptions(),
                  3000, "en")  # fmt: skip
    cutter = AtPauses(heard, [(0, 2000), (2000, 4000), (4000, 6000)], [], 3)
    first, second, third = (cutter.next() for _ in range(3))
    whole = result([BEGIN, 1, AT + 500])
    assert list(cutter.take(third, whole)) == []
    assert [segment.seek for segment in cutter.take(first, whole)] == [0]
    assert [segment.seek for segment in cutter.take(second, whole)] == [2000, 4000]


def test_silent_windows_are_left_out(multilingual_tokenizer):
    said = {0: (-0.5, 0.9), 1500: (-1.5, 0.9), 2500: (-1.5, 0.1), 3000: (-0.5, 0.1)}
    segments, _ = segments_of(
        multilingual_tokenizer, CUTS, lambda seek, end: result([BEGIN, 1, AT], *said[seek]), at_once=4
    )
    assert [(segment.seek, segment.avg_logprob) for segment in segments] == [(0, -0.5), (2500, -1.5), (3000, -0.5)]


def test_segments_do_not_overlap_or_outlast_their_window(multilingual_tokenizer):
    begun_after_the_end = result([BEGIN, 1, AT + 900, AT + 900, 2, AT + 1100, AT + 1100, 3, AT + 1400])
    segments, _ = segments_of(
        multilingual_tokenizer, [(0, 2000), (2000, 3550)], lambda *_: begun_after_the_end, at_once=2
    )
    times = [(round(segment.start, 6), round(segment.end, 6)) for segment in segments]
    assert times == [(0.0, 19.0), (19.0, 20.0), (20.0, 20.0), (20.0, 35.5), (35.5, 35.5), (35.5, 35.5)]


@pytest.mark.parametrize("at_once", [1, 3])
def test_windows_do_not_run_ahead_of_one_that_takes_long(multilingual_tokenizer, at_once):
    """What is read of the recording stays in memory from the first window that is not told."""
    heard = Heard(GivenSpectrogram(np.zeros((80, 303_000), np.float32)), multilingual_tokenizer,
                  TranscriptionOptions(), 3000, "en")  # fmt: skip
    cutter = AtPauses(heard, [(seek, seek + 3000) for seek in range(0, 300_000, 3000)], [], at_once)
    slow, others = cutter.next(), 0
    while (window := cutter.next()) is not None:
        list(cutter.take(window, result([BEGIN, 1, AT])))
        others += 1
    assert others == WINDOWS_AHEAD * at_once - 1
    assert len(list(cutter.take(slow, result([BEGIN, 1, AT])))) == others + 1
    assert cutter.next().seek == (others + 1) * 3000
