"""Logits and what may follow, of all kinds, to ask whoever chooses a token and compare with runtime/choice.py."""

from collections.abc import Iterator

import numpy as np

from whisper2max.runtime.choice import Allowed, Choice, choose

N_VOCAB, END, FIRST_TIME, LAST_TIME = 1543, 700, 750, 1500


def cases() -> Iterator[tuple[str, np.ndarray, Allowed]]:
    """A name, logits float32 [N_VOCAB] and what may follow."""
    rng = np.random.default_rng(8)
    suppressed = np.sort(rng.choice(FIRST_TIME, 40, replace=False))
    suppressed = suppressed[suppressed != END]
    times, never = (FIRST_TIME, LAST_TIME), suppressed
    every = Allowed(np.empty(0, np.int64))

    def logits(**likely: float) -> np.ndarray:
        scores = rng.normal(0, 2, N_VOCAB).astype(np.float32)
        places = {"time": 900, "end": END, "text": 17, "suppressed": suppressed[3], "last": N_VOCAB - 1, "zero": 0}
        for name, value in likely.items():
            scores[places[name]] = value
        return scores

    yield "anything", logits(), every
    yield "the first id", logits(zero=30.0), every
    yield "the last id", logits(last=30.0), every
    yield "what is suppressed is most probable", logits(suppressed=40.0, text=20.0), Allowed(never)
    yield "ranges", logits(text=30.0, last=20.0), Allowed(never, ((0, END), (FIRST_TIME, 800), (1500, 1520)), times)
    yield "text is more probable than all times", logits(text=20.0), Allowed(never, (), times)
    together = logits(text=3.5)
    together[FIRST_TIME:LAST_TIME] = 3.0
    yield "times together", together, Allowed(never, (), times)
    yield "no time may follow", together, Allowed(never, ((FIRST_TIME, LAST_TIME),), times)
    no_text, but_the_end = ((0, FIRST_TIME), (LAST_TIME, N_VOCAB)), ((0, END), (END + 1, N_VOCAB))
    yield "times alone may follow", logits(text=30.0), Allowed(never, no_text, times)
    yield "the end is refused", logits(end=30.0, text=20.0), Allowed(never, (), times, END)
    yield "the end is refused and a time follows", logits(end=30.0, time=20.0), Allowed(never, (), times, END)
    yield "the end is not the most probable", logits(end=15.0, text=20.0), Allowed(never, (), times, END)
    yield "the end may not follow", logits(end=30.0), Allowed(never, ((END, END + 1),), times, END)
    yield "nothing but the end, which is refused", logits(), Allowed(never, but_the_end, times, END)
    yield "equally probable", np.full(N_VOCAB, 1.5, np.float32), Allowed(never, ((0, 5),), None)
    yield "equally probable, and times together", np.full(N_VOCAB, -7.0, np.float32), Allowed(never, (), times)
    yield "large", logits() * 1000, Allowed(never, (), times)
    yield "nothing may follow", logits(), Allowed(never, ((0, N_VOCAB),), times)
    yield "not a number", logits(text=np.nan), Allowed(never, (), times)
    yield "not a number, where nothing may follow", logits(suppressed=np.nan, text=9.0), Allowed(never, (), times)
    yield "infinite", logits(text=np.inf), every
    for number in range(40):
        forbidden = [tuple(sorted(rng.integers(0, N_VOCAB, 2).tolist())) for _ in range(rng.integers(0, 4))]
        group, refused = rng.random() < 0.7, rng.random() < 0.4
        allowed = Allowed(suppressed, tuple(forbidden), times if group else None, END if refused else None)
        yield f"any {number}", logits(time=rng.normal(4, 4), end=rng.normal(4, 4), text=rng.normal(4, 4)), allowed


def wanted(scores: np.ndarray, allowed: Allowed) -> Choice:
    """What arrays give."""
    with np.errstate(invalid="ignore"):
        return choose(scores.copy(), allowed)


def require_equal(name: str, got: Choice, expected: Choice) -> None:
    """The same token, and its log-probability to float32's rounding; or no number where it is none."""
    if not np.isfinite(expected.score):
        assert not np.isfinite(got.score), name
        return
    assert (got.token, got.score) == (expected.token, expected.score), name
    np.testing.assert_allclose(got.logprob, expected.logprob, rtol=2e-5, atol=2e-6, err_msg=name)
    assert (got.refused is None) == (expected.refused is None), name
    if expected.refused is not None:
        np.testing.assert_allclose(got.refused, expected.refused, rtol=2e-5, atol=2e-6, err_msg=name)
