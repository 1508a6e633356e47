"""Speak the sample's transcript with espeak-ng and store it as FLAC, 16 kHz, mono: `make sample`."""

import subprocess
import tempfile
from pathlib import Path

import av

from whisper2max.samples import SPEECH, TRANSCRIPT

SAMPLE_RATE = 16_000
VOICE = "en-us"
WORDS_PER_MINUTE = 145


def speak(text: str, wav: Path) -> None:
    """Write `text`, spoken, to `wav` at espeak-ng's own rate of 22,050 Hz."""
    command = ["espeak-ng", "-v", VOICE, "-s", str(WORDS_PER_MINUTE), "-w", str(wav), text]
    subprocess.run(command, check=True)


def to_flac(wav: Path, flac: Path) -> float:
    """Resample `wav` to 16 kHz mono 16-bit FLAC; returns the duration in seconds."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    samples = 0
    with av.open(str(wav)) as source, av.open(str(flac), "w") as target:
        stream = target.add_stream("flac", rate=SAMPLE_RATE, layout="mono", format="s16")
        for frame in [*source.decode(audio=0), None]:
            for resampled in resampler.resample(frame):
                samples += resampled.samples
                target.mux(stream.encode(resampled))
        target.mux(stream.encode(None))
    return samples / SAMPLE_RATE


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "speech.wav"
        speak(TRANSCRIPT, wav)
        seconds = to_flac(wav, SPEECH)
    print(f"{SPEECH}: {seconds:.1f} s, {SPEECH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
