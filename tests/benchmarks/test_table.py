"""The table shows medians with ratios, and why a cell has none."""

from rounds import Results
from table import spread, table

RESULTS = Results(
    ["ours", "theirs", "other"],
    ["long", "wer"],
    values={"long": {"ours": [2.0, 3.0, 4.0], "theirs": [6.0, 6.3]}, "wer": {"ours": [5.41], "theirs": [5.0]}},
    failed={"long": {"other": "exit status 1: no file"}, "wer": {"other": "exit status 1: no file"}},
)


def test_rows_have_medians_and_ratios_and_rates_have_none():
    lines = table(RESULTS, "ours", ["CPU, today"]).splitlines()
    assert lines[:5] == [
        "|  | 127 s, s | WER, % |",
        "| --- | ---: | ---: |",
        "| ours | 3.00 (1.00) | 5.41 |",
        "| theirs | 6.15 (2.05) | 5.00 |",
        "| other | **failed** | **failed** |",
    ]


def test_reasons_and_conditions_follow():
    text = table(RESULTS, "ours", ["CPU, today"])
    assert "- other, 127 s, s; WER, %: exit status 1: no file" in text
    assert text.endswith("\nCPU, today\n")
    assert "the ratio to ours" in text


def test_without_the_reference_there_are_no_ratios():
    assert "| theirs | 6.15 | 5.00 |" in table(RESULTS, "other", [])


def test_what_is_not_offered_is_listed_apart():
    results = Results(["ours"], ["beam"], skipped={"beam": {"ours": "no beams"}})
    text = table(results, "ours", [])
    assert "| ours | – |" in text
    assert "Not measured:\n\n- ours, 127 s beam 5, s: no beams" in text
    assert "Failed:" not in text


def test_the_widest_range_is_named():
    assert spread(RESULTS) == "Widest range over the rounds: 67% of the median (ours, 127 s, s)."


def test_one_round_has_no_range():
    assert spread(Results(["ours"], ["long"], {"long": {"ours": [2.0]}})) == "Nothing was measured more than once."
