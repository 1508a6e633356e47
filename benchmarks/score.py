"""Word error rate of texts on standard input: python benchmarks/score.py AUDIO < {"clip": "text"} -> percent.

A process of its own, because Whisper's normaliser imports PyTorch.
"""

import json
import sys
from pathlib import Path

import jiwer
from clips import trusted_english
from whisper.normalizers import EnglishTextNormalizer


def word_error_rate(audio: Path, texts: dict[str, str]) -> float:
    """Percent over all trusted English clips together, both sides normalised."""
    normalize = EnglishTextNormalizer()
    clips = trusted_english(audio)
    return 100 * jiwer.wer(
        [normalize(clip.transcript) for clip in clips], [normalize(texts[clip.file]) for clip in clips]
    )


if __name__ == "__main__":
    print(word_error_rate(Path(sys.argv[1]), json.load(sys.stdin)))
