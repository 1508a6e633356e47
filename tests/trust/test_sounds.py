"""Odd recordings give the samples that the ffmpeg command gives, and what refers elsewhere gives nothing.

The ffmpeg command makes the recordings and is the judge; it is another version of the libraries than the one inside
PyAV. Where it is missing, only the tests that need it are skipped.
"""

import io
import os
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

from whisper2max.core.errors import AudioError
from whisper2max.runtime.audio import SAMPLE_RATE, load_audio, open_sound
from whisper2max.runtime.features import log_mel_powers
from whisper2max.runtime.recording import DIGITAL_SILENCE
from whisper2max.samples import SPEECH

TOLERANCE = 1e-3
# FFmpeg 5 decodes the 4 bits of IMA ADPCM with another rounding than FFmpeg 8
OLDER_DECODER = {"adpcm.wav": 3e-3}

OTHER = "sine=f=330:r=44100:d=4"  # a second stream, told apart from speech by its length
LATE = "-f lavfi -i color=c=black:s=64x64:r=5:d=17 -itsoffset 5 -i SPEECH -map 0:v -map 1:a"
TWO = f"-i SPEECH -f lavfi -i {OTHER} -map 0:a -map 1:a"
SIX_CHANNELS = "[1:a]pan=5.1|c0=c0|c1=c0|c2=c0|c3=c0|c4=c0|c5=c0[s]"
GAP = "asetpts='if(gte(T,5.5),PTS+20/TB,PTS)'"

MADE_BY_FFMPEG = {
    "late.mkv": f"{LATE} -c:v mpeg4 -c:a aac -shortest",
    "late.mp4": f"{LATE} -c:v mpeg4 -c:a aac",
    "late.ts": f"{LATE} -c:v mpeg2video -r 25 -c:a aac",
    "gap.ts": f"-i SPEECH -af {GAP} -c:a aac",
    "gap.mkv": f"-i SPEECH -af {GAP} -ar 48000 -c:a libopus",
    "two_default_first.mkv": f"{TWO} -c:a aac -b:a:0 64k -b:a:1 128k",
    "two_default_second.mkv": f"{TWO} -c:a aac -disposition:a:0 0 -disposition:a:1 default",
    "two_no_default.mkv": f"{TWO} -c:a aac -disposition:a:0 0 -disposition:a:1 0",
    "two_51_second.mkv": f"-i SPEECH -f lavfi -i {OTHER} -filter_complex {SIX_CHANNELS} -map 0:a -map [s] -c:a aac "
    "-disposition:a:0 0 -disposition:a:1 0",
    "two_51_second.mp4": f"-i SPEECH -f lavfi -i {OTHER} -filter_complex {SIX_CHANNELS} -map 0:a -map [s] -c:a aac",
    "two_bitrate.mkv": f"{TWO} -c:a:0 aac -b:a:0 48k -c:a:1 pcm_s16le",
    "piped.wav": "-i SPEECH -ac 1 -ar 16000",
    "s24.wav": "-i SPEECH -c:a pcm_s24le",
    "f64.wav": "-i SPEECH -c:a pcm_f64le",
    "mulaw8k.wav": "-i SPEECH -ar 8000 -c:a pcm_mulaw",
    "center51.flac": "-i SPEECH -filter_complex [0:a]pan=5.1|FC=c0 -c:a flac",
    "outofphase.wav": "-i SPEECH -filter_complex [0:a]pan=stereo|c0=c0|c1=-1*c0",
    "lfe71.wav": "-i SPEECH -filter_complex [0:a]pan=7.1|LFE=c0",
    "r192k.wav": "-i SPEECH -ar 192000 -c:a pcm_s32le",
    "adpcm.wav": "-i SPEECH -ar 11025 -c:a adpcm_ima_wav",
    "speech.m4a": "-i SPEECH -c:a aac",
    "speech.webm": "-i SPEECH -ar 48000 -c:a libopus",
    "speech.mp3": "-i SPEECH -ar 44100",
    "art.mp3": "-i speech.mp3 -f lavfi -i color=c=red:s=64x64:r=1:d=1 -map 1:v -map 0:a -c:a copy -c:v png "
    "-disposition:v attached_pic -id3v2_version 3",
    "fast.mp3": "-i SPEECH -t 3 -ar 44100 -ac 2 -write_xing 0 -id3v2_version 0",
    "slow.mp3": "-ss 3 -i SPEECH -ar 48000 -ac 1 -write_xing 0 -id3v2_version 0",
    # cut without encoding again: priming and edit lists
    "cut.m4a": "-ss 2.3 -i speech.m4a -c copy",
    "cut.webm": "-ss 2.3 -i speech.webm -c copy",
}


def plain_wav() -> bytes:
    samples = np.round(load_audio(SPEECH) * 32768).astype(np.int16)
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())
    return content.getvalue()


def with_sizes(content: bytes, data: int | None = None, riff: int | None = None) -> bytes:
    """A wav whose header states other sizes."""
    changed = bytearray(content)
    at = content.index(b"data") + 4
    if data is not None:
        changed[at : at + 4] = data.to_bytes(4, "little")
    if riff is not None:
        changed[4:8] = riff.to_bytes(4, "little")
    return bytes(changed)


def from_bytes(folder: Path) -> dict[str, bytes]:
    """Recordings that are other recordings, damaged or joined."""
    wav, mp3 = plain_wav(), (folder / "speech.mp3").read_bytes()
    n = len(wav) - wav.index(b"data") - 8
    return {
        "wav_zero_len.wav": with_sizes(wav, 0),
        "wav_half_len.wav": with_sizes(wav, n // 2),
        "wav_double_len.wav": with_sizes(wav, 2 * n),
        "wav_odd_len.wav": with_sizes(wav, n - 1),
        "wav_riff0.wav": with_sizes(wav, riff=0),
        "wav_says_4gb.wav": with_sizes(wav, 2**32 - 2, 2**32 - 1),
        "wav_trunc.wav": wav[: len(wav) // 3 + 1],
        "id3_garbage.mp3": b"\xff\xd8" * 2000 + mp3,
        "trunc.mp3": mp3[: len(mp3) // 2 + 7],
        "zeros_tail.mp3": mp3 + bytes(300_000),
        "zeros_mid.mp3": mp3[:20_000] + bytes(60_000) + mp3[20_000:],
        "rate_change.mp3": (folder / "fast.mp3").read_bytes() + (folder / "slow.mp3").read_bytes(),
        **{f"short_{n}.wav": with_sizes(wav[: 44 + 2 * n], 2 * n, 36 + 2 * n) for n in (1, 10, 100, 200, 201, 1000)},
    }


@pytest.fixture(scope="module")
def odd_sounds(tmp_path_factory) -> Path:
    """A folder with all of them."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("the ffmpeg command, which makes odd recordings and judges ours, is not installed")
    folder = tmp_path_factory.mktemp("sounds")
    for name, arguments in MADE_BY_FFMPEG.items():
        words = [str(SPEECH) if word == "SPEECH" else word.strip("'") for word in arguments.split()]
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *words, name]
        if name == "piped.wav":
            command[-1:] = ["-f", "wav", "-"]
        made = subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout
        if made:
            (folder / name).write_bytes(made)
    for name, content in from_bytes(folder).items():
        (folder / name).write_bytes(content)
    return folder


def by_ffmpeg(path: Path) -> np.ndarray:
    """What openai-whisper's `load_audio` gives."""
    command = ["ffmpeg", "-nostdin", "-threads", "0", "-v", "error", "-i", path, "-f", "s16le", "-ac", "1"]
    command += ["-acodec", "pcm_s16le", "-ar", "16000", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.int16) / np.float32(32768)


def test_samples_are_those_of_the_ffmpeg_command(odd_sounds):
    names = sorted(path.name for path in odd_sounds.iterdir())
    assert len(names) >= 40
    for name in names:
        expected, got = by_ffmpeg(odd_sounds / name), load_audio(odd_sounds / name)
        assert got.size == expected.size > 0, name
        np.testing.assert_allclose(got, expected, rtol=0, atol=OLDER_DECODER.get(name, TOLERANCE), err_msg=name)


def test_a_stream_can_be_chosen(odd_sounds):
    path = odd_sounds / "two_default_second.mkv"
    assert abs(load_audio(path, audio_stream=1).size - 64_000) < 2000
    assert load_audio(path).size == load_audio(path, audio_stream=1).size != load_audio(path, audio_stream=0).size
    for missing in (2, -1):
        with pytest.raises(AudioError, match=f"has 2 audio stream.*there is no {missing}"):
            load_audio(path, audio_stream=missing)


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4", "late.ts"])
def test_sound_that_begins_after_the_pictures(odd_sounds, name):
    sound = open_sound(odd_sounds / name)
    for _ in sound.pieces():
        pass
    ((sample, ahead),) = sound.jumps
    assert sample == 0 and abs(ahead - 5) < 0.1


@pytest.mark.parametrize("name", ["gap.mkv", "gap.ts"])
def test_a_gap_in_the_sound(odd_sounds, name):
    sound = open_sound(odd_sounds / name)
    for _ in sound.pieces():
        pass
    ((sample, ahead),) = sound.jumps
    assert abs(sample / SAMPLE_RATE - 5.5) < 0.2 and abs(ahead - 20) < 0.1


def test_stereo_of_inverted_phase_holds_no_sound(odd_sounds):
    samples = load_audio(odd_sounds / "outofphase.wav")
    assert np.abs(samples).max() <= 1 / 32768
    assert not (log_mel_powers(samples, 80).max(axis=0) > DIGITAL_SILENCE).any()


def test_damage_is_warned_of(odd_sounds, caplog):
    load_audio(odd_sounds / "zeros_mid.mp3")
    assert "zeros_mid.mp3: damaged packets left out" in caplog.text


CONCAT = b"ffconcat version 1.0\n" + b"file other.wav\n" * 2000
REFERRING = {
    "concat.mp3": (CONCAT, "list of files for FFmpeg to join"),
    "one.txt": (b"ffconcat version 1.0\nfile other.wav\n", "list of files"),
    "absolute.m3u8": (b"#EXTM3U\n#EXTINF:10,\nFOLDER/other.wav\n#EXT-X-ENDLIST\n", "playlist"),
    "relative.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mp3\n#EXT-X-ENDLIST\n", "playlist"),
    "segment.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n", "playlist"),
    "address.m3u8": (b"#EXTM3U\n#EXTINF:10,\nfile:FOLDER/other.wav\n#EXT-X-ENDLIST\n", "playlist"),
    "manifest.mpd": (
        b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        b'<Representation><BaseURL>other.wav</BaseURL></Representation></AdaptationSet></Period></MPD>\n',
        "XML",
    ),
    "session.sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n", "sdp"),
    "list.pls": (b"[playlist]\nFile1=other.wav\nNumberOfEntries=1\n", "playlist"),
    "numbered%03d.png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "expected a sound or video file"),
    "subtitles.srt": (b"1\n00:00:00,000 --> 00:00:01,000\nother.wav\n", "expected a sound or video file"),
    "metadata.wav": (b";FFMETADATA1\ntitle=x\n", "expected a sound or video file"),
}


@pytest.fixture
def referring(tmp_path) -> Path:
    """A folder with recordings, and with files that refer to them."""
    (tmp_path / "other.wav").write_bytes(plain_wav())
    for name in ("other.mp3", "other.ts"):
        (tmp_path / name).write_bytes(plain_wav())
    for name, (content, _) in REFERRING.items():
        (tmp_path / name).write_bytes(content.replace(b"FOLDER", os.fsencode(tmp_path)))
    return tmp_path


@pytest.mark.parametrize("name", REFERRING)
def test_what_refers_to_other_files_is_refused_by_name(referring, name, monkeypatch):
    monkeypatch.chdir(referring)
    said = REFERRING[name][1]
    with pytest.raises(AudioError, match=said) as error:
        load_audio(name)
    assert name in str(error.value)
    with pytest.raises(AudioError, match=said):
        load_audio((referring / name).read_bytes())


def test_no_other_file_is_opened(referring):
    """The kernel's word for it: which names in the folder were opened while all of them were tried."""
    if shutil.which("strace") is None:
        pytest.skip("strace, which shows what is opened, is not installed")
    program = (
        "import sys\nfrom whisper2max.core.errors import AudioError\nfrom whisper2max.runtime.audio import load_audio\n"
        "for name in sys.argv[1:]:\n"
        "    for source in (name, open(name, 'rb').read()):\n"
        "        try: load_audio(source)\n"
        "        except AudioError: continue\n"
        "        raise SystemExit(f'{name} was read')\n"
        "load_audio('other.wav')\n"
    )
    trace = referring / "trace"
    command = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", trace, shutil.which("python") or "python"]
    command[-1] = os.sys.executable
    tried = subprocess.run([*command, "-P", "-c", program, *REFERRING], cwd=referring, capture_output=True, text=True)
    if "ptrace" in tried.stderr and not trace.stat().st_size:
        pytest.skip("this system does not let strace look")
    assert tried.returncode == 0, tried.stderr
    opened = [line for line in trace.read_text().splitlines() if "other." in line]
    assert len(opened) == 1 and "other.wav" in opened[0], opened


def header(rate: int, channels: int) -> bytes:
    content = bytearray(plain_wav())
    content[22:24] = channels.to_bytes(2, "little")
    content[24:28] = rate.to_bytes(4, "little")
    content[28:32] = (rate * channels * 2 % 2**32).to_bytes(4, "little")
    content[32:34] = (channels * 2 % 65536).to_bytes(2, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("rate", "channels", "said"),
    [(1, 1, "1 channels at 1 Hz"), (0, 1, "cannot be read"), (16000, 65535, "65535 channels|header without sound")],
)
def test_headers_that_say_what_cannot_be(rate, channels, said):
    with pytest.raises(AudioError, match=said):
        load_audio(header(rate, channels))


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "endless.wav").symlink_to("/dev/zero")
    for name in ("pipe.wav", "endless.wav"):
        with pytest.raises(AudioError, match=f"{name} is a pipe or a device.*Give - "):
            load_audio(tmp_path / name)


def test_an_address_is_not_a_missing_file():
    for address in ("https://example.org/talk.mp3", "s3://bucket/talk.mp3"):
        with pytest.raises(AudioError, match="is an address, and nothing is fetched"):
            load_audio(address)


def test_names_that_are_not_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfetalk.wav"
    with open(path, "wb") as file:
        file.write(plain_wav())
    assert load_audio(os.fsdecode(path)).size == load_audio(Path(os.fsdecode(path))).size == load_audio(SPEECH).size
    for unusual in ("zero\0byte.wav", "x" * 5000):
        with pytest.raises(AudioError):
            load_audio(unusual)


class OnceOnly(io.RawIOBase):
    """A stream that cannot be read twice, as a pipe."""

    def __init__(self, content: bytes):
        self.content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.content.readinto(buffer)


def test_a_pipe_is_copied_so_that_it_can_be_read_twice():
    sound = open_sound(io.BufferedReader(OnceOnly(plain_wav())))
    first, second = (np.concatenate(list(sound.pieces())) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, load_audio(SPEECH))


def test_an_open_file_is_read_from_where_it_stands():
    file = io.BytesIO(b"a header of another program" + plain_wav())
    file.seek(27)
    np.testing.assert_array_equal(load_audio(file), load_audio(SPEECH))


def test_a_full_disk_says_where(monkeypatch):
    class Full(io.BytesIO):
        def write(self, content):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    with pytest.raises(AudioError, match="No space left on device.*TMPDIR"):
        load_audio(io.BufferedReader(OnceOnly(plain_wav())))
