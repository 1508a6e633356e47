"""The sample that ships: small, 16 kHz, mono, and as long as its transcript takes to say."""

import av
import numpy as np

from whisper2max.samples import SPEECH, TRANSCRIPT


def test_the_sample_is_clear_16_khz_mono():
    with av.open(str(SPEECH)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.layout.name) == ("flac", 16_000, "mono")
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
    assert 8 * 16_000 <= len(samples) <= 11 * 16_000
    assert 3_000 < np.abs(samples).max() < 32_767


def test_the_sample_is_small():
    assert SPEECH.stat().st_size < 300_000


def test_the_transcript_is_spoken_at_a_human_rate():
    assert 20 <= len(TRANSCRIPT.split()) <= 30
