"""Who is asked when, and what becomes of answers that are missing, wrong or not the same each time."""

import pytest
from rounds import Results, WorkerFailed, alternate


def run(ask, figures=("encoder",), rounds=3, check=lambda figure, answer: None):
    results, said = Results(["A", "B"], list(figures)), []
    alternate(results, rounds, ask, check, said.append)
    return results, said


def test_peers_alternate_within_every_round():
    asked = []
    run(lambda peer, figure: asked.append(figure + peer) or {"value": 1.0}, figures=("step", "short"), rounds=2)
    assert asked == ["stepA", "stepB", "shortA", "shortB"] * 2


def test_the_median_is_taken_over_the_rounds():
    values = iter([3.0, 30.0, 1.0, 10.0, 2.0, 20.0])
    results, _ = run(lambda peer, figure: {"value": next(values)})
    assert (results.median("encoder", "A"), results.median("encoder", "B")) == (2.0, 20.0)


def test_memory_comes_from_the_workers_of_the_speech():
    asked = []
    answer = {"value": 9.0, "memory": 500.0}
    results, _ = run(lambda peer, figure: asked.append(figure) or answer, figures=("long", "memory"), rounds=1)
    assert asked == ["long", "long"]
    assert results.values == {"long": {"A": [9.0], "B": [9.0]}, "memory": {"A": [500.0], "B": [500.0]}}


def test_the_word_error_rate_is_measured_once():
    results, _ = run(lambda peer, figure: {"value": 5.0}, figures=("wer",))
    assert results.values["wer"] == {"A": [5.0], "B": [5.0]}


def test_a_failed_worker_fails_its_figures_loudly_and_is_not_asked_again():
    asked = []

    def ask(peer, figure):
        asked.append(peer)
        if peer == "A":
            raise WorkerFailed("exit status 1: out of memory")
        return {"value": 1.0, "memory": 2.0}

    results, said = run(ask, figures=("long", "memory"), rounds=2)
    assert asked == ["A", "B", "B"]
    reason = "exit status 1: out of memory"
    assert results.failed == {"long": {"A": reason}, "memory": {"A": reason}}
    assert results.median("long", "A") is None
    assert [line for line in said if "FAILED: exit status 1: out of memory" in line]


def test_what_a_peer_does_not_offer_is_no_failure():
    results, said = run(lambda peer, figure: {"skipped": "no batch"} if peer == "A" else {"value": 1.0})
    assert results.skipped == {"encoder": {"A": "no batch"}}
    assert results.failed == {}
    assert [line for line in said if line.endswith("A: skipped, no batch")]


def test_a_text_that_cannot_be_right_fails_the_figure():
    def check(figure, answer):
        raise ValueError("all words are wrong")

    results, _ = run(lambda peer, figure: {"value": 1.0}, check=check)
    assert results.failed == {"encoder": {"A": "all words are wrong", "B": "all words are wrong"}}


@pytest.mark.parametrize("kind, texts", [("texts", [{"a": "x"}, {"a": "y"}]), ("tokens", [[1, 2], [1, 3]])])
def test_another_text_in_a_later_round_fails_the_figure(kind, texts):
    given = iter([texts[0], texts[0], texts[0], texts[1]])
    results, _ = run(lambda peer, figure: {"value": 1.0, kind: next(given)}, rounds=2)
    assert results.failed == {"encoder": {"B": "round 2 gave another text than the first"}}
    assert results.median("encoder", "B") is None
