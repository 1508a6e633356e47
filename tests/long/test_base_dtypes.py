"""Whisper base in every dtype: proven, and as few words wrong as docs/benchmarks.md says."""

import jiwer
import pytest
from whisper.normalizers import EnglishTextNormalizer

import whisper2max
from whisper2max.graph.passes import PASSES

# Percent of words: what was measured on machines with AVX2, AVX-512 and AMX at worst.
WRONG = {"float32": 4.45, "bfloat16": 4.45, "int8": 4.58}


@pytest.mark.parametrize("dtype", PASSES["cpu"])
def test_word_error_rate_of_the_trusted_english_clips(base_converted, clips, dtype):
    artifact = base_converted(dtype)
    assert artifact.verified and artifact.manifest["dtype"] == dtype
    normalize = EnglishTextNormalizer()
    trusted = [clip for clip in clips if clip.trusted and clip.language == "en"]
    assert len(trusted) >= 10
    with whisper2max.load(artifact.path) as model:
        texts = ["".join(each.text for each in model.transcribe(clip.samples)[0]) for clip in trusted]
    rate = 100 * jiwer.wer([normalize(clip.transcript) for clip in trusted], [normalize(text) for text in texts])
    print(f"base {dtype}: {rate:.2f} % of the words wrong, parity {artifact.manifest['parity']['tokens']}")
    assert round(rate, 2) <= WRONG[dtype]
