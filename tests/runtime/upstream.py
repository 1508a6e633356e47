"""openai-whisper's own transcription, in the form that ours is compared with."""

import numpy as np
import pytest
import whisper

SAME_NAME = {"log_prob_threshold": "logprob_threshold"}
EXACT = ("id", "seek", "start", "end", "text", "tokens", "temperature", "compression_ratio")


def openai_segments(engine, samples: np.ndarray, **options) -> dict:
    """openai-whisper's transcription at temperature 0, the segments without text left out."""
    result = whisper.transcribe(engine.model, samples, temperature=0.0, fp16=False, **options)
    segments = [segment for segment in result["segments"] if segment["tokens"]]
    for number, segment in enumerate(segments):
        segment["id"] = number
        segment.pop("words", None)
    return {**result, "segments": segments}


def assert_same(ours: dict, theirs: dict) -> None:
    """That two transcriptions are one."""
    assert ours["language"] == theirs["language"]
    assert [{name: row[name] for name in EXACT} for row in ours["segments"]] == [
        {name: row[name] for name in EXACT} for row in theirs["segments"]
    ]
    for our_row, their_row in zip(ours["segments"], theirs["segments"], strict=True):
        assert list(our_row) == list(their_row)
        assert our_row["avg_logprob"] == pytest.approx(their_row["avg_logprob"], abs=1e-4)
        assert our_row["no_speech_prob"] == pytest.approx(their_row["no_speech_prob"], abs=1e-4)
