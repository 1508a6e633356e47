"""The detected language is that of openai-whisper's `transcribe`, whose window is padded with silence and not zeros."""

import whisper
from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim

from whisper2max.runtime.audio import SAMPLE_RATE


def detected_by_openai(reference, samples) -> str:
    """As its `transcribe` does it before the first window."""
    mel = log_mel_spectrogram(samples, reference.dims.n_mels, padding=N_SAMPLES)
    _, probabilities = whisper.detect_language(reference, pad_or_trim(mel, N_FRAMES))
    return max(probabilities, key=probabilities.get)


def test_every_clip_and_its_beginning(base, base_reference, clips):
    different, n_tried = [], 0
    for clip in clips:
        for seconds in (None, 3):
            samples = clip.samples[: seconds and seconds * SAMPLE_RATE]
            _, info = base.transcribe(samples)
            if info.language is None:
                assert "silence" in clip.name
                continue
            n_tried += 1
            if info.language != detected_by_openai(base_reference, samples):
                different.append((clip.name, seconds, info.all_language_probs[:2]))
    print(f"{n_tried} beginnings and whole clips: {len(different)} with another language than openai-whisper")
    assert n_tried >= 50 and not different
