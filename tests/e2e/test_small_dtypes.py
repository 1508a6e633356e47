"""Tiny random dimensions in every dtype, from convert to text."""

import json

import numpy as np
import pytest
import torch
import whisper
from small_models import VARIANTS

import whisper2max
from whisper2max.graph.passes import PASSES
from whisper2max.graph.walker import walk
from whisper2max.runtime.audio import load_audio
from whisper2max.runtime.options import DecodingOptions
from whisper2max.samples import SPEECH

DIMS = VARIANTS["multilingual_80_mels"]


@pytest.mark.parametrize("dtype", PASSES["cpu"])
def test_an_artifact_is_proven_by_the_limits_of_its_dtype(small_converted, dtype):
    artifact = small_converted(dtype)
    report = json.loads(artifact.file("parity.json").read(1 << 24))
    assert artifact.verified and report["passed"]
    assert artifact.manifest["dtype"] == report["dtype"] == artifact.spec.dtype == dtype
    assert report["weights"]["tensors"] > 40 and report["weights"]["different"] == []
    assert all(row["max_abs"] <= row["tolerance"]["max_abs"] for row in report["layers"] + report["logits"])
    assert report["tokens"]["compared"] > 0


@pytest.mark.parametrize("dtype", PASSES["cpu"])
def test_the_sample_is_transcribed(small_converted, dtype):
    """Random weights say nothing, but they say it to the end, one window after the other and several together."""
    with whisper2max.load(small_converted(dtype).path) as model:
        for batch_size in (None, 2):
            segments, info = model.transcribe(SPEECH, language="en", batch_size=batch_size)
            assert sum(len(segment.tokens) for segment in segments) > 0
            assert info.duration == pytest.approx(load_audio(SPEECH).size / 16_000, abs=0.01)


def test_tokens_in_float32_are_those_of_openai_whisper(small_artifact, small_module):
    reference = whisper.model.Whisper(whisper.model.ModelDimensions(**DIMS.to_dict()))
    reference.load_state_dict(walk(small_module, DIMS).tensors)
    samples = load_audio(SPEECH)
    with whisper2max.load(small_artifact.path) as model:
        for first in (0, 40_000):
            window = np.zeros(480_000, np.float32)
            window[: min(window.size, samples.size - first)] = samples[first : first + window.size]
            mel = model.log_mel(window)
            options = whisper.DecodingOptions(fp16=False, temperature=0.0, language="en")
            theirs = whisper.decode(reference.eval(), torch.from_numpy(mel), options)
            (ours,) = model.decode(mel[None], [DecodingOptions(language="en")])
            assert ours.tokens == theirs.tokens and len(ours.tokens) > 0
