"""Whole recordings: the text of openai-whisper's transcribe(temperature=0), and its word error rate."""

import jiwer
import pytest
import whisper
from whisper.normalizers import EnglishTextNormalizer

normalize = EnglishTextNormalizer()


def ours(model, samples, **options) -> str:
    return "".join(segment.text for segment in model.transcribe(samples, **options)[0])


def theirs(reference, samples, **options) -> str:
    return whisper.transcribe(reference, samples, temperature=0.0, fp16=False, **options)["text"]


def test_english_recordings(base, base_reference, clips):
    english = [clip for clip in clips if clip.language == "en"]
    different, truth, ours_text, theirs_text = [], [], [], []
    for clip in english:
        got, want = ours(base, clip.samples), theirs(base_reference, clip.samples)
        edits = jiwer.process_words(want or "-", got or "-")
        if got != want:
            count = edits.substitutions + edits.insertions + edits.deletions
            different.append((count, f"{clip.name}: {got!r} != {want!r}"))
        if clip.trusted:
            truth.append(normalize(clip.transcript))
            ours_text.append(normalize(got))
            theirs_text.append(normalize(want))
    words = sum(len(text.split()) for text in truth)
    print(
        f"{len(english)} recordings, {words} trusted words after normalisation: WER ours "
        f"{jiwer.wer(truth, ours_text):.2%}, openai-whisper {jiwer.wer(truth, theirs_text):.2%}; "
        f"{sum(count for count, _ in different)} words differ"
    )
    assert sum(count for count, _ in different) <= 1, "\n".join(text for _, text in different)


@pytest.mark.parametrize(
    "options", [{"condition_on_previous_text": False}, {"initial_prompt": "President Bush, radio address."}]
)
def test_options_of_a_long_recording(base, base_reference, clips, options):
    clip = next(clip for clip in clips if clip.name.startswith("en_long"))
    assert ours(base, clip.samples, **options) == theirs(base_reference, clip.samples, **options)


def test_other_languages_and_silence(base, base_reference, clips):
    others = [clip for clip in clips if clip.language != "en"]
    assert len(others) == 8
    silent = [clip for clip in others if "silence" in clip.name]
    different = [
        f"{clip.name}: {got!r} != {want!r}"
        for clip in others
        if clip not in silent and (got := ours(base, clip.samples)) != (want := theirs(base_reference, clip.samples))
    ]
    assert not different, "\n".join(different)
    # the one difference by intent: openai-whisper hears "you you" in nothing but the dithering of silence
    assert [ours(base, clip.samples) for clip in silent] == [""]
