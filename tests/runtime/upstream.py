"""openai-whisper's own transcription, in the form that ours is compared with."""

import numpy as np
import whisper


def openai_segments(engine, samples: np.ndarray, **options) -> dict:
    """openai-whisper's transcription at temperature 0, the segments without text left out."""
    result = whisper.transcribe(engine.model, samples, temperature=0.0, fp16=False, **options)
    segments = [segment for segment in result["segments"] if segment["tokens"]]
    for number, segment in enumerate(segments):
        segment["id"] = number
        segment.pop("words", None)
    return {**result, "segments": segments}
