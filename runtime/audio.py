"""Sound files to what Whisper hears: mono, 16 kHz, float32.

The samples are those of openai-whisper's `load_audio`, which runs `ffmpeg -ac 1 -ar 16000 -f s16le`: the same
libraries, reached through PyAV, downmix and resample to 16-bit integers, and these are divided by 32768.
"""

import io
import logging
import os
from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np

from whisper2max.errors import AudioError

SAMPLE_RATE = 16000

AudioInput = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray

log = logging.getLogger(__name__)


def load_audio(source: AudioInput) -> np.ndarray:
    """Reads a recording of any format that FFmpeg knows; of several audio streams, the one FFmpeg prefers.

    Args:
        source: a path, the bytes of a file, an open binary file, or samples that are mono at 16 kHz already.

    Returns:
        float32 [samples], mono, 16 kHz. An array given as `source` is checked and returned itself.

    Raises:
        AudioError: nothing there, not sound, no samples, or an array of another shape, type or content.
    """
    if isinstance(source, np.ndarray):
        return _checked(source)
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        _check_path(name)
        # without the scheme, FFmpeg reads what stands before a colon in a file name as a protocol
        return _decode(f"file:{name}", name)
    if not isinstance(source, bytes):
        if not hasattr(source, "read"):
            raise AudioError(
                f"Audio was given as {type(source).__name__}; expected a path, the bytes of a file, an open "
                "binary file, or a numpy array of float32 samples."
            )
        source = source.read()
        if not isinstance(source, bytes):
            raise AudioError('The audio file was opened in text mode; open it with mode "rb".')
    if not source:
        raise AudioError("The audio holds 0 bytes; expected the content of a sound file.")
    return _decode(io.BytesIO(source), "the audio given as bytes")


def _checked(samples: np.ndarray) -> np.ndarray:
    if samples.ndim != 1:
        raise AudioError(
            f"The samples have shape {list(samples.shape)}; expected one dimension, mono at 16 kHz. "
            "Average the channels first."
        )
    if samples.dtype != np.float32:
        raise AudioError(
            f"The samples are {samples.dtype}; expected float32 between -1 and 1 (16-bit integers: divide by "
            "32768; float64: convert with astype)."
        )
    if samples.size == 0:
        raise AudioError("The audio has 0 samples; there is nothing to transcribe.")
    if not np.isfinite(samples).all():
        raise AudioError("The samples hold infinities or not-a-number values; look where they come from.")
    return samples


def _check_path(name: str) -> None:
    if not os.path.exists(name):
        raise AudioError(f"{name} does not exist; give the path of a sound file on this machine.")
    if os.path.isdir(name):
        raise AudioError(f"{name} is a directory; give the sound files in it one by one.")
    if os.path.isfile(name) and os.path.getsize(name) == 0:
        raise AudioError(f"{name} is an empty file of 0 bytes; its copy or download did not finish.")


def _decode(source: str | io.BytesIO, name: str) -> np.ndarray:
    try:
        # playlists and other containers that only refer to sound elsewhere must not reach the network
        container = av.open(source, metadata_errors="ignore", options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError) as error:
        raise AudioError(
            f"{name} cannot be read as audio ({_reason(error)}); expected a sound or video file that FFmpeg "
            "knows, such as wav, mp3, flac, ogg, m4a or webm. A damaged or renamed file is the usual cause."
        ) from error
    with container:
        stream = container.streams.best("audio")
        if stream is None:
            raise AudioError(f"{name} has no audio stream: a {container.format.long_name} file without sound.")
        try:
            pieces = [frame.to_ndarray()[0] for frame in _resampled(_frames(container, stream, name))]
        except av.error.FFmpegError as error:
            raise AudioError(
                f"{name} cannot be converted to 16 kHz mono ({_reason(error)}); the header of the file is damaged."
            ) from error
    if not any(piece.size for piece in pieces):
        raise AudioError(
            f"{name} holds 0 samples of audio; the file is a header without sound, or its sound is damaged."
        )
    samples = np.concatenate(pieces, dtype=np.float32)
    samples /= 32768.0
    return samples


def _frames(container, stream, name: str) -> Iterator[av.AudioFrame]:
    """Decoded frames; packets that cannot be decoded are left out, as ffmpeg does, and counted."""
    damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.error.FFmpegError, OSError) as error:
            log.warning("%s: reading stopped before the end of the file (%s).", name, _reason(error))
            break
        try:
            yield from packet.decode()
        except av.error.EOFError:
            break
        except av.error.FFmpegError:
            damaged += 1
    if damaged:
        log.warning("%s: damaged packets left out: %d; the transcript may have gaps.", name, damaged)


def _resampled(frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """The frames as signed 16-bit mono at 16 kHz; a stream may change its layout or rate on the way."""
    resampler, source_format = None, None
    for frame in frames:
        if source_format != (frame.format.name, frame.layout.name, frame.sample_rate):
            source_format = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is not None:
                yield from resampler.resample(None)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        frame.pts = None  # time stamps with gaps would be refused; ffmpeg ignores them too
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
