"""The command line of `make bench`, and how it takes the failure of a worker."""

import sys

import pytest
from figures import FIGURES
from peers import PEERS, artifact_name
from rounds import WorkerFailed
from run import ARTIFACTS, run, selected, with_sources


def test_names_are_selected_in_their_own_order():
    names = ["faster-whisper float32", "faster-whisper int8", "whisper.cpp f16"]
    assert selected(names, ["cpp", "int8"], "peers") == names[1:]
    assert selected(FIGURES, ["wer", "step"], "figures") == ["step", "wer"]
    assert selected(names, None, "peers") == names


def test_unknown_names_are_refused_with_those_that_exist():
    with pytest.raises(SystemExit, match="no figures match ste; there are: encoder, step"):
        selected(FIGURES, ["ste"], "figures")


def test_memory_brings_the_figure_that_it_is_taken_from():
    assert with_sources(["memory"]) == ["long", "memory"]


def test_artifacts_and_peers_have_names_of_their_own():
    names = [artifact_name(artifact) for artifact in ARTIFACTS]
    assert names == ["whisper2max base", "whisper2max base-bfloat16", "whisper2max base-int8"]
    assert not set(names) & set(PEERS)


def test_a_process_gives_its_last_line():
    seconds, line = run([sys.executable, "-c", "print('noise'); print('{}')"], 60, 1)
    assert line == "{}"
    assert 0 < seconds < 60


def test_a_failing_process_gives_its_reason():
    with pytest.raises(WorkerFailed, match="exit status 3: it broke"):
        run([sys.executable, "-c", "import sys; print('it broke', file=sys.stderr); sys.exit(3)"], 60, 1)
    with pytest.raises(WorkerFailed, match="no answer within 0 s"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], 0.2, 1)
