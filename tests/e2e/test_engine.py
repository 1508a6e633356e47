"""The engine takes what is large in parts; nobody can tell from the bits."""

import numpy as np
import pytest

from whisper2max.runtime import engine, recording
from whisper2max.runtime.audio import Sound, load_audio
from whisper2max.runtime.recording import Recording
from whisper2max.samples import SPEECH


@pytest.mark.parametrize("n_audios", [3, 5])
@pytest.mark.parametrize("rows_of_one", [1, 2])
def test_prompts_of_many_windows_in_parts(tiny_en, monkeypatch, n_audios, rows_of_one):
    rng = np.random.default_rng(n_audios)
    encoder = tiny_en.engine
    states = encoder.to_states(encoder.to_numpy(encoder.encode(rng.normal(0, 0.5, (n_audios, 80, 3000)).astype("f4"))))
    tokens = rng.integers(0, 50_000, (n_audios * rows_of_one, 7))
    picked = np.tile([0, 6], (len(tokens), 1))

    def run():
        logits, session = encoder.prompt(states, tokens, picked)
        yield logits
        for position in (7, 8, 9):
            yield session.step(tokens[:, position - 7], np.full(len(tokens), position, np.int64))

    together = {}
    # more than once: what is copied too late is copied in time now and then
    for audios_at_a_time in (100, 1, 2, 1, 2):
        monkeypatch.setattr(engine, "AUDIOS_AT_A_TIME", audios_at_a_time)
        for step, got in enumerate(run()):
            np.testing.assert_array_equal(got, together.setdefault(step, got))


@pytest.mark.parametrize("block_frames", [137, 600, 6000])
def test_a_spectrogram_in_parts(tiny_en, monkeypatch, block_frames):
    samples = load_audio(SPEECH)
    whole = tiny_en.engine.log_mel(samples, padding=480_000)
    monkeypatch.setattr(recording, "KEPT_SECONDS", 0)
    monkeypatch.setattr(recording, "BLOCK_FRAMES", block_frames)
    pieces = [samples[at : at + 1000] for at in range(0, samples.size, 1000)]
    heard = Recording(Sound("speech.flac", lambda: iter(pieces)), tiny_en.engine)
    np.testing.assert_array_equal(heard.window_in_silence(0, 3000), whole[:, :3000])
    n_frames = heard.n_frames
    np.testing.assert_array_equal(heard.window(0, n_frames, 3000)[:, :n_frames], whole[:, :n_frames])
