"""Window by window on the same samples: tokens and detected language are those of openai-whisper's decode."""

import numpy as np
import pytest
import torch
import whisper

from whisper2max.runtime.decoding import detect_language
from whisper2max.runtime.features import log_mel
from whisper2max.runtime.options import DecodingOptions

WINDOW = 480_000


def windows(clip):
    for start in range(0, len(clip.samples), WINDOW):
        piece = clip.samples[start : start + WINDOW]
        if len(piece) < 1600:
            continue
        padded = np.zeros(WINDOW, np.float32)
        padded[: len(piece)] = piece
        yield padded


def compare_windows(model, reference, clips) -> tuple[int, int, list[str]]:
    """(windows, tokens, differences) of greedy decoding with timestamps."""
    n_windows, n_tokens, differences = 0, 0, []
    language = None if model.tokenizer.special.multilingual else "en"
    options = whisper.DecodingOptions(fp16=False, temperature=0.0, language=language)
    for clip in clips:
        for index, samples in enumerate(windows(clip)):
            mel = log_mel(samples, model.engine.dims.n_mels)
            theirs = whisper.decode(reference, torch.from_numpy(mel), options)
            (ours,) = model.decode(mel[None], [DecodingOptions(language=language)])
            n_windows += 1
            n_tokens += len(theirs.tokens)
            if ours.language != theirs.language:
                differences.append(f"{clip.name} window {index}: {ours.language}, expected {theirs.language}")
            if ours.tokens != theirs.tokens:
                pairs = zip(ours.tokens, theirs.tokens, strict=False)
                first = next((i for i, (got, want) in enumerate(pairs) if got != want), -1)
                differences.append(f"{clip.name} window {index}, token {first}: {ours.tokens} != {theirs.tokens}")
    return n_windows, n_tokens, differences


def test_base_on_every_clip(base, base_reference, clips, record_property):
    assert len(clips) == 26
    n_windows, n_tokens, differences = compare_windows(base, base_reference, clips)
    print(f"base: {n_tokens} tokens in {n_windows} windows of {len(clips)} clips, {len(differences)} differences")
    assert n_windows >= 36 and n_tokens > 1000
    assert not differences, "\n".join(differences)


def test_tiny_en_on_english_clips(tiny_en, tiny_en_reference, clips):
    english = [clip for clip in clips if clip.language == "en"]
    assert len(english) == 18
    n_windows, n_tokens, differences = compare_windows(tiny_en, tiny_en_reference, english)
    print(f"tiny.en: {n_tokens} tokens in {n_windows} windows of 18 clips, {len(differences)} differences")
    assert not differences, "\n".join(differences)


def test_language_probabilities(base, base_reference, clips):
    for clip in [clip for clip in clips if clip.language in ("zh", "ja", "es", "de", "ru")]:
        mel = log_mel(next(windows(clip)), 80)
        _, theirs = whisper.detect_language(base_reference, torch.from_numpy(mel))
        ours = detect_language(base.engine, base.tokenizer, mel[None])[0]
        assert max(ours, key=ours.get) == max(theirs, key=theirs.get) == clip.language
        assert max(abs(ours[code] - theirs[code]) for code in theirs) < 1e-4


def test_eight_clips_together_give_the_tokens_they_give_alone(base, clips):
    chosen = sorted(clips, key=lambda clip: len(clip.samples))[:: len(clips) // 8][:8]
    assert len({len(clip.samples) for clip in chosen}) == 8
    prompts = [
        "",
        "Numbers.",
        "Poems by Shakespeare, read aloud.",
        "",
        "news " * 40,
        "Yes.",
        "",
        "A long story about ships",
    ]
    mel = np.stack([log_mel(next(windows(clip)), 80) for clip in chosen])
    options = [
        DecodingOptions(language="en", prompt=base.tokenizer.encode(" " + prompt) if prompt else None)
        for prompt in prompts
    ]
    together = base.decode(mel, options)
    alone = [base.decode(mel[row : row + 1], options[row : row + 1])[0] for row in range(8)]
    assert [result.tokens for result in together] == [result.tokens for result in alone]
    lengths = [len(result.tokens) for result in alone]
    print(f"tokens per row: {lengths}")
    assert len(set(lengths)) >= 5


@pytest.mark.parametrize("threads", [4])
def test_several_threads(base, clips, threads):
    from concurrent.futures import ThreadPoolExecutor

    chosen = [clip for clip in clips if clip.language in ("zh", "ja", "ru")]

    def tokens(clip):
        return [token for segment in base.transcribe(clip.samples)[0] for token in segment.tokens]

    alone = [tokens(clip) for clip in chosen]
    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(tokens, chosen * 2)) == alone * 2
