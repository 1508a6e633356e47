"""The language of a recording, from the first of its windows."""

from whisper2max.runtime.loop import Decoder
from whisper2max.runtime.recording import Recording

# A language that is this probable in a window padded with zeros was the same padded with silence, of all clips tried.
SURE_LANGUAGE = 0.9


def language_of(
    decoder: Decoder, recording: Recording, window: tuple[int, int], n_frames: int
) -> tuple[dict[str, float], int]:
    """Probabilities of the languages in a window, and the number of the audio that holds it, to be decoded from.

    openai-whisper's `transcribe` detects in a window padded with silence and decodes one padded with zeros. Where
    the latter leaves no doubt, that other encoding is spared.

    Args:
        decoder: hears the window; it has to have room for two audios.
        recording: holds it.
        window: first frame and end.
        n_frames: frames of a whole window.
    """
    seek, end = window
    audio = decoder.hear(recording.window(seek, end, n_frames))
    (probabilities,) = decoder.languages([audio])
    if end - seek < n_frames and max(probabilities.values()) < SURE_LANGUAGE:
        padded = decoder.hear(recording.window_in_silence(seek, n_frames))
        (probabilities,) = decoder.languages([padded])
        decoder.release(padded)
    return probabilities, audio
