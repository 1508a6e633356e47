"""Sound files to what Whisper hears: mono, 16 kHz, float32.

The samples are those of openai-whisper's `load_audio`, which runs `ffmpeg -ac 1 -ar 16000 -f s16le`: the same
libraries, reached through PyAV, downmix and resample to 16-bit integers, and these are divided by 32768.

FFmpeg is given an open file and never a name, and of its formats those alone that hold sound themselves: playlists and
other formats that name further files or addresses are refused, and nothing in a file makes it open another.
"""

import io
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import av
import numpy as np

from whisper2max.core.errors import AudioError
from whisper2max.core.printable import printable

SAMPLE_RATE = 16000

AudioInput = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray

# FFmpeg's names of what holds sound itself. Left out are all that refer elsewhere (concat, hls, dash, sdp, imf, image
# sequences, subtitles..), devices, filters, and formats of pictures alone.
FORMATS = (
    "aac ac3 ac4 act adf adp ads adx aea afc aiff aix alaw amr amrnb amrwb apac ape apc apm aptx aptx_hd asf asf_o ast "
    "au avi avr bfstm binka bonk brstm caf codec2 dfpwm dhav dsf dss dts dtshd dv eac3 epaf flac flv fsb fwse g722 "
    "g723_1 g726 g726le g728 g729 genh gsm gxf hca hcom iamf iff ircam iss ivr kux kvag laf lc3 live_flv loas lvf lxf "
    "matroska mca mlp mmf mods mov mp3 mpc mpc8 mpeg mpegts mpegtsraw msf mtaf mulaw musx mxf mxg nistsphere nsp nsv "
    "nut nuv ogg oma osq paf pva pvf qcp qoa rka rl2 rm rsd rso s337m sbc sds sdx shn siff sln smjpeg sol sox spdif "
    "svag svs swf tak truehd tta ty vag voc vqf vpk w64 wady wav wavarc wsaud wsd wtv wv wve xa xvag xwma"
).split()
REFERRING = {
    b"ffconcat": "a list of files for FFmpeg to join (concat)",
    b"#EXTM3U": "a playlist (m3u8)",
    b"[playlist]": "a playlist (pls)",
    b"<?xml": "an XML document, such as a playlist or a DASH manifest",
    b"<MPD": "a DASH manifest (mpd)",
    b"<smil": "a playlist (smil)",
    b"v=0": "a description of network streams (sdp)",
    b"[Reference]": "a playlist (asx)",
    b"<asx": "a playlist (asx)",
}
# Below this no speech is left; a header that says so is damaged.
LOWEST_RATE, MOST_CHANNELS = 1000, 64
# Time stamps of containers are rounded and jitter by less.
JUMP_SECONDS = 0.1

log = logging.getLogger(__name__)


@dataclass
class Sound:
    """A recording that can be decoded as often as it is wanted.

    Attributes:
        name: for messages.
        pieces: decodes the recording from its beginning: float32 [samples] after one another, mono, 16 kHz.
        jumps: sample and seconds: what is to be added, from this sample on, to its time in the sound to have its time
            in the container. Known once the recording was decoded to its end.
    """

    name: str
    pieces: Callable[[], Iterator[np.ndarray]]
    jumps: list[tuple[int, float]] = field(default_factory=list)


def open_sound(source: AudioInput, audio_stream: int | None = None) -> Sound:
    """A recording of any format that holds sound.

    Args:
        source: a path, the bytes of a file, an open binary file, or samples that are mono at 16 kHz already. A file
            that cannot be read twice, such as standard input, is copied to a temporary file first.
        audio_stream: which audio stream of the file, from 0; by default the one that the ffmpeg command takes: of those
            marked as default, else of all, the first with the most channels.

    Raises:
        AudioError: nothing there, not a regular file, or an array of another shape, type or content. What cannot be
            decoded is found by `Sound.pieces`.
    """
    if isinstance(source, np.ndarray):
        samples = _checked(source)
        return Sound("the samples", lambda: _slices(samples))
    file, name = _opened(source)
    sound = Sound(name, lambda: iter(()))
    sound.pieces = lambda: _decoded(file, sound, audio_stream)
    return sound


def load_audio(source: AudioInput, audio_stream: int | None = None) -> np.ndarray:
    """A whole recording; arguments as for `open_sound`.

    Returns:
        float32 [samples], mono, 16 kHz. An array given as `source` is checked and returned itself.

    Raises:
        AudioError: nothing there, not sound, no samples, or an array of another shape, type or content.
    """
    if isinstance(source, np.ndarray):
        return _checked(source)
    return np.concatenate(list(open_sound(source, audio_stream).pieces()))


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


def _slices(samples: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, samples.size, 60 * SAMPLE_RATE):
        yield samples[first : first + 60 * SAMPLE_RATE]


class _File:
    """An open file as PyAV takes it; its name tells FFmpeg the ending alone, which helps to recognise some formats."""

    def __init__(self, file: BinaryIO, ending: str):
        self.name = f"sound{ending if ending.isascii() and ending.isprintable() else ''}"
        self._file = file
        self._start = file.tell()
        self.read = file.read
        file.seek(0, os.SEEK_END)
        self._size = file.tell() - self._start
        self.seek(0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return self._file.seek(self._start + base + offset) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start

    def start(self) -> bytes:
        """The first bytes, for who wants to know what this is."""
        self.seek(0)
        return self._file.read(64)

    @property
    def size(self) -> int:
        return self._size


def _opened(source: AudioInput) -> tuple[_File, str]:
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        return _open_path(path), os.fsdecode(path)
    if isinstance(source, bytes):
        name, ending = "the audio given as bytes", ""
        file = io.BytesIO(source)
    else:
        if not hasattr(source, "read"):
            raise AudioError(
                f"Audio was given as {type(source).__name__}; expected a path, the bytes of a file, an open "
                "binary file, or a numpy array of float32 samples."
            )
        if isinstance(source, io.TextIOBase):
            raise AudioError('The audio file was opened in text mode; open it with mode "rb".')
        given = getattr(source, "name", None)
        name = given if isinstance(given, str) else "the audio file"
        ending = os.path.splitext(name)[1]
        file = source if getattr(source, "seekable", lambda: False)() else _spooled(source, name)
    opened = _File(file, ending)
    if opened.size == 0:
        raise AudioError(f"{name} holds 0 bytes; expected the content of a sound file.")
    return opened, name


def _open_path(path: str | bytes) -> _File:
    name = os.fsdecode(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        if "://" in name:
            raise AudioError(
                f"{name} is an address, and nothing is fetched from the network: download it and give the file, or "
                "pipe it in, with - as the name."
            ) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise AudioError(f"{name} does not exist; give the path of a sound file on this machine.") from error
        raise AudioError(f"{name} cannot be found ({_reason(error)}).") from error
    if stat.S_ISDIR(mode):
        raise AudioError(f"{name} is a directory; give the sound files in it one by one.")
    if not stat.S_ISREG(mode):
        raise AudioError(
            f"{name} is a pipe or a device, not a file: it might block or never end. Give - to read a recording from "
            "standard input, or an open binary file from Python."
        )
    try:
        # without blocking, should a pipe have taken the place of the file meanwhile
        file = open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        raise AudioError(f"{name} cannot be read ({_reason(error)}).") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise AudioError(f"{name} is not a regular file.")
    if os.fstat(file.fileno()).st_size == 0:
        raise AudioError(f"{name} is an empty file of 0 bytes; its copy or download did not finish.")
    return _File(file, os.path.splitext(name)[1])


def _spooled(source: BinaryIO, name: str) -> BinaryIO:
    """What can be read once alone, in a temporary file that has no name and ends with this process."""
    spool = tempfile.TemporaryFile(prefix="whisper2max-")
    try:
        while chunk := source.read(1 << 20):
            if not isinstance(chunk, bytes | bytearray):
                raise AudioError('The audio file was opened in text mode; open it with mode "rb".')
            spool.write(chunk)
        spool.seek(0)
    except OSError as error:
        spool.close()
        raise AudioError(
            f"{name} cannot be copied to a temporary file ({_reason(error)}); free space in {tempfile.gettempdir()}, "
            "or name another directory with TMPDIR."
        ) from error
    return spool


def _decoded(file: _File, sound: Sound, audio_stream: int | None) -> Iterator[np.ndarray]:
    name = sound.name
    file.seek(0)
    # a file that is given open needs no protocol, and one that names others gets none
    options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
    try:
        container = av.open(file, metadata_errors="ignore", options=options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise AudioError(_cannot_be_read(file, name, error)) from error
    n_samples = 0
    sound.jumps.clear()
    with container:
        stream = _chosen(container, audio_stream, name)
        try:
            for frame in _resampled(_frames(container, stream, sound)):
                n_samples += frame.samples
                if frame.samples:
                    yield frame.to_ndarray()[0].astype(np.float32) / np.float32(32768.0)
        except (av.error.FFmpegError, ValueError) as error:
            raise AudioError(
                f"{name} cannot be converted to 16 kHz mono ({_reason(error)}); the header of the file is damaged."
            ) from error
    if n_samples == 0:
        raise AudioError(
            f"{name} holds 0 samples of audio; the file is a header without sound, or its sound is damaged."
        )


def _cannot_be_read(file: _File, name: str, error: Exception) -> str:
    start = file.start().lstrip(b"\xef\xbb\xbf \t\r\n")
    for beginning, what in REFERRING.items():
        if start[: len(beginning)].lower() == beginning.lower():
            return (
                f"{name} cannot be read as audio: it is {what}, which holds no sound itself but names what does, and "
                "nothing that a file names is opened. Give the sound files themselves."
            )
    return (
        f"{name} cannot be read as audio ({_reason(error)}); expected a sound or video file that FFmpeg "
        "knows, such as wav, mp3, flac, ogg, m4a or webm. A damaged or renamed file is the usual cause."
    )


def _chosen(container, audio_stream: int | None, name: str):
    streams = container.streams.audio
    if not streams:
        raise AudioError(f"{name} has no audio stream: a {container.format.long_name} file without sound.")
    if audio_stream is None:
        is_default = av.stream.Disposition.default
        stream = max(streams, key=lambda each: (is_default in each.disposition, each.codec_context.channels))
    elif 0 <= audio_stream < len(streams):
        stream = streams[audio_stream]
    else:
        raise AudioError(f"{name} has {len(streams)} audio stream(s), numbered from 0; there is no {audio_stream}.")
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    if not (rate == 0 or rate >= LOWEST_RATE) or channels > MOST_CHANNELS:
        raise AudioError(
            f"{name} says that it has {channels} channels at {rate} Hz; expected at most {MOST_CHANNELS} at "
            f"{LOWEST_RATE} Hz or more. Its header is damaged."
        )
    return stream


def _frames(container, stream, sound: Sound) -> Iterator[av.AudioFrame]:
    """Decoded frames; packets that cannot be decoded are left out, as ffmpeg does, and counted."""
    damaged, seconds, name = 0, 0.0, printable(sound.name)
    begins = (container.start_time or 0) / av.time_base
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
            for frame in packet.decode():
                if frame.time is not None:
                    ahead = frame.time - begins - seconds
                    if abs(ahead - (sound.jumps[-1][1] if sound.jumps else 0.0)) > JUMP_SECONDS:
                        sound.jumps.append((round(seconds * SAMPLE_RATE), ahead))
                seconds += frame.samples / frame.sample_rate
                yield frame
        except av.error.EOFError:
            break
        except av.error.FFmpegError:
            damaged += 1
    if damaged:
        log.warning("%s: damaged packets left out: %d; the transcript may have gaps.", name, damaged)


def _resampled(frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """The frames as signed 16-bit mono at 16 kHz; a stream may change its layout or rate on the way.

    There the few samples that the resampler still holds are lost, as with the ffmpeg command.
    """
    resampler, source_format = None, None
    for frame in frames:
        if source_format != (frame.format.name, frame.layout.name, frame.sample_rate):
            source_format = (frame.format.name, frame.layout.name, frame.sample_rate)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        frame.pts = None  # time stamps with gaps would be refused; ffmpeg ignores them too
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
