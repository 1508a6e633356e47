"""The folder of clips is found or asked for, and texts that are something else are noticed."""

import pytest
from clips import Clip, audio_folder, check_text, clips, rough_wer, trusted_english

CLIP = Clip("a.wav", "Ask not what your country can do for you.", True, "en")


def test_rough_wer_counts_edits_over_words():
    assert rough_wer("one two three four", "One, two three four!") == 0
    assert rough_wer("one two three four", "one three five four") == 0.5
    assert rough_wer("one two", "") == 1


def test_a_text_of_the_clip_passes_and_another_does_not():
    check_text(CLIP, " Ask not what your country can do for me.")
    for text in ("", "Thank you for watching."):
        with pytest.raises(ValueError, match="a.wav"):
            check_text(CLIP, text)


def test_the_index_is_read(tmp_path):
    rows = ["file\tlanguage\treference\ttrust", 'a.wav\ten\tsaid "so\tA', "b.wav\ten\tx\tB", "c.wav\tde\ty\tA"]
    (tmp_path / "INDEX.tsv").write_text("\n".join(rows))
    assert clips(tmp_path)[0] == Clip("a.wav", 'said "so', True, "en")
    assert [clip.file for clip in trusted_english(tmp_path)] == ["a.wav"]
    assert audio_folder(str(tmp_path)) == tmp_path


def test_a_missing_folder_says_how_to_name_one(tmp_path):
    with pytest.raises(SystemExit, match="--audio"):
        audio_folder(str(tmp_path))
