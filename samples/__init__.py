"""The speech sample that ships with the package: synthetic, so that it is free of anyone's rights.

`SPEECH` is the audio file (FLAC, 16 kHz, mono) and `TRANSCRIPT` the sentence spoken in it.
"""

from pathlib import Path

SPEECH = Path(__file__).with_name("speech.flac")
TRANSCRIPT = (
    "Good morning and welcome to the weather report. It will be cold and windy today, "
    "with heavy rain in the afternoon and some sunshine tomorrow."
)
