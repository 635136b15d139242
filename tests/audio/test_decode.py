from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.audio import Audio, PcmFormat, decode
from orchestrator.errors import (
    AudioDecodeError,
    AudioEmptyError,
    AudioError,
    AudioNotFoundError,
    AudioTooLongError,
    AudioValueError,
)
from orchestrator.settings import AudioSettings

SECONDS = 3.0
LEFT_HZ, RIGHT_HZ = 440.0, 1000.0


def tones(rate: int, seconds: float = SECONDS) -> NDArray[np.float32]:
    """Two channels, a tone of its own in each."""
    t = np.arange(int(rate * seconds)) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * f * t) for f in (LEFT_HZ, RIGHT_HZ)]).astype(np.float32)


def with_soundfile(format: str, subtype: str, rate: int = 44_100) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tones(rate).T, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def with_libav(format: str, codec: str, rate: int = 48_000, **options: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format, options=options) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(tones(rate), format="fltp", layout="stereo")
        frame.sample_rate = rate
        convert = av.AudioResampler(format=stream.codec_context.format.name, layout="stereo", rate=rate)
        for part in convert.resample(frame):
            part.pts = None
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()


MAKERS: dict[str, Callable[[], bytes]] = {
    "wav-u8": lambda: with_soundfile("WAV", "PCM_U8"),
    "wav-16": lambda: with_soundfile("WAV", "PCM_16"),
    "wav-24": lambda: with_soundfile("WAV", "PCM_24"),
    "wav-32": lambda: with_soundfile("WAV", "PCM_32"),
    "wav-float": lambda: with_soundfile("WAV", "FLOAT"),
    "wav-double": lambda: with_soundfile("WAV", "DOUBLE"),
    "wav-ulaw": lambda: with_soundfile("WAV", "ULAW", 8_000),
    "wav-alaw": lambda: with_soundfile("WAV", "ALAW", 8_000),
    "wav-adpcm": lambda: with_soundfile("WAV", "IMA_ADPCM"),
    "wavex": lambda: with_soundfile("WAVEX", "PCM_24", 96_000),
    "aiff": lambda: with_soundfile("AIFF", "PCM_16"),
    "caf": lambda: with_soundfile("CAF", "PCM_16"),
    "au": lambda: with_soundfile("AU", "PCM_16"),
    "flac-16": lambda: with_soundfile("FLAC", "PCM_16"),
    "flac-24": lambda: with_soundfile("FLAC", "PCM_24", 48_000),
    "ogg-vorbis": lambda: with_soundfile("OGG", "VORBIS"),
    "ogg-opus": lambda: with_soundfile("OGG", "OPUS", 48_000),
    "opus-libav": lambda: with_libav("ogg", "libopus"),
    "mp3-sf": lambda: with_soundfile("MP3", "MPEG_LAYER_III"),
    "mp3": lambda: with_libav("mp3", "libmp3lame", 44_100),
    "mp3-22k": lambda: with_libav("mp3", "libmp3lame", 22_050),
    "mp3-no-header": lambda: with_libav("mp3", "libmp3lame", 44_100, write_xing="0"),
    "m4a": lambda: with_libav("mp4", "aac", 44_100),
    "mp4-fragments": lambda: with_libav("mp4", "aac", movflags="frag_keyframe+empty_moov"),
    "aac": lambda: with_libav("adts", "aac"),
    "webm": lambda: with_libav("webm", "libopus"),
    "webm-live": lambda: with_libav("webm", "libopus", live="1"),
    "mkv-aac": lambda: with_libav("matroska", "aac"),
}
KNOWN_LENGTH = [
    *("wav-16", "wav-float", "wav-ulaw", "wavex", "aiff", "au", "flac-16", "ogg-vorbis", "ogg-opus"),
    *("mp3", "mp3-sf", "m4a", "aac", "webm", "mkv-aac"),
]


@cache
def encoded(kind: str) -> bytes:
    return MAKERS[kind]()


def loudest_hz(samples: NDArray[np.float32]) -> float:
    window = samples[4_000:36_000] * np.hanning(32_000)
    return float(np.argmax(np.abs(np.fft.rfft(window))) * 16_000 / 32_000)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_format_keeps_length_pitch_channels_and_level(kind: str) -> None:
    audio = decode(encoded(kind), channels="separate")
    assert audio.samples.dtype == np.float32
    assert audio.samples.flags.c_contiguous
    assert audio.samples.shape[0] == audio.source_channels == 2
    # Lossy codecs work in frames; AAC fills its last one with silence.
    assert audio.duration_s == pytest.approx(SECONDS, abs=0.06)
    left, right = audio.samples
    assert loudest_hz(left) == pytest.approx(LEFT_HZ, abs=2)
    assert loudest_hz(right) == pytest.approx(RIGHT_HZ, abs=2)
    assert np.std(left[8_000:32_000]) == pytest.approx(0.4 / np.sqrt(2), rel=0.1)
    mixed = decode(encoded(kind))
    assert mixed.samples.shape[0] == 1
    assert mixed.source_channels == 2
    np.testing.assert_allclose(mixed.samples[0], audio.samples.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_resampling_keeps_pitch_and_length(rate: int) -> None:
    audio = decode(tones(rate)[0], sample_rate=rate)
    assert audio.source_rate_hz == rate
    assert abs(audio.samples.shape[1] - SECONDS * 16_000) <= 1
    assert loudest_hz(audio.samples[0]) == pytest.approx(LEFT_HZ, abs=1)


def test_what_lies_above_the_new_nyquist_does_not_fold_back() -> None:
    high = 0.5 * np.sin(2 * np.pi * 10_000 * np.arange(48_000 * 2) / 48_000)
    assert np.std(decode(high.astype(np.float32), sample_rate=48_000).samples[0][2_000:-2_000]) < 1e-4


def test_a_file_of_16_khz_comes_out_bit_for_bit(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32767, 50_000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="PCM_16")
    np.testing.assert_array_equal(decode(tmp_path / "a.wav").samples[0], samples / np.float32(32768))


@pytest.mark.parametrize("format", ["WAV", "FLAC", "AIFF"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("channels", ["mix", "separate"])
def test_sixteen_bits_are_what_libsndfile_makes_of_them(
    format: str, count: int, channels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is more than room was made for."""
    rng = np.random.default_rng(count)
    written = rng.integers(-32_768, 32_768, (170_000, count), dtype=np.int16)
    written[:2] = [[-32_768] * count, [32_767] * count]
    file = io.BytesIO()
    soundfile.write(file, written, 16_000, format=format, subtype="PCM_16")
    floats = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)[0].T
    wanted = floats.mean(axis=0, keepdims=True) if channels == "mix" else floats
    for room in (64_000_000, 0, 1000):
        monkeypatch.setattr(sys.modules["orchestrator.audio.decode"], "_ROOM", room)
        samples = decode(file.getvalue(), channels=channels).samples
        assert samples.flags.c_contiguous
        assert samples.dtype == np.float32
        assert np.array_equal(samples, wanted)


def test_tags_that_are_no_utf8_do_no_harm() -> None:
    plain = encoded("wav-16")
    title = b"INFOINAM\x06\0\0\0B\xfccher"
    chunk = b"LIST" + len(title).to_bytes(4, "little") + title
    header, rest = plain[:36], plain[36:]  # the chunk goes between "fmt " and "data"
    assert rest.startswith(b"data")
    size = len(plain) + len(chunk) - 8
    tagged = b"RIFF" + size.to_bytes(4, "little") + header[8:] + chunk + rest
    np.testing.assert_array_equal(decode(tagged).samples, decode(plain).samples)


def test_paths_bytes_and_streams_are_the_same(tmp_path: Path) -> None:
    data = encoded("wav-24")
    path = tmp_path / "meeting.raw"  # a name that would make libsndfile expect no header
    path.write_bytes(data)
    first = decode(path)
    assert first.name == "meeting.raw"

    class OneWay(io.RawIOBase):
        """A stream that cannot seek."""

        def __init__(self) -> None:
            self._file = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return self._file.readinto(buffer)

    with path.open("rb") as file:
        sources: list[Any] = [
            str(path),
            data,
            bytearray(data),
            memoryview(data),
            file,
            io.BytesIO(data),
            OneWay(),
        ]
        for source in sources:
            np.testing.assert_array_equal(decode(source).samples, first.samples)


def test_a_named_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(encoded("wav-16"),))
    writer.start()
    assert decode(pipe).duration_s == pytest.approx(SECONDS)
    writer.join()


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(np.int8, 128), (np.int16, 32768), (np.int32, 2**31), (np.float64, 1), (np.float16, 1)],
)
def test_arrays_of_integers_are_scaled(dtype: type, scale: float) -> None:
    values = np.array([-0.5, 0.0, 0.25, 0.5] * 100)
    audio = decode((values * scale).astype(dtype))
    np.testing.assert_allclose(audio.samples[0], values, atol=1e-3)


def test_uint8_is_centred_and_channels_keep_their_order() -> None:
    np.testing.assert_array_equal(decode(np.full(10, 128, np.uint8)).samples, np.zeros((1, 10), np.float32))
    planes = np.stack([np.full(100, value, np.float32) for value in (0.1, 0.2, 0.3)])
    np.testing.assert_array_equal(decode(planes, channels="separate").samples, planes)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((2, 2, 100), np.float32), "3 dimensions"),
        (np.zeros((), np.float32), "0 dimensions"),
        (np.zeros((48_000, 2), np.float32), "transpose"),
        (np.zeros(100, np.complex64), "complex64"),
        (np.zeros(100, np.bool_), "bool"),
        (np.zeros(100, np.int64), "int64"),
        (np.array(["a"] * 5), "type <U1"),
        (np.array([object()] * 5), "object"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (np.array([0.0, -np.inf], np.float32), "infinite"),
        (np.array([0.0, 1e300]), "infinite"),
        (np.array([0.0, 20_000.0], np.float32), "full scale is 1"),
    ],
)
def test_arrays_that_are_no_audio_are_refused(array: NDArray[Any], says: str) -> None:
    with pytest.raises(AudioValueError, match=says):
        decode(array)


def test_an_empty_array_is_refused() -> None:
    for array in (np.zeros(0, np.float32), np.zeros((1, 0)), np.zeros((0, 5))):
        with pytest.raises(AudioEmptyError):
            decode(array)


@pytest.mark.parametrize("rate", [0, -1, 999, 10**9])
def test_impossible_rates_are_refused(rate: int) -> None:
    with pytest.raises(AudioValueError, match=str(rate)):
        decode(np.zeros(100, np.float32), sample_rate=rate)


@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [
        ("s8", "i1"),
        ("u8", "u1"),
        ("s16le", "<i2"),
        ("s16be", ">i2"),
        ("s32le", "<i4"),
        ("f32le", "<f4"),
        ("f64le", "<f8"),
    ],
)
def test_raw_pcm(encoding: Any, dtype: str) -> None:
    wave = tones(8_000)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        raw = wave.T.astype(kind)
    else:
        full = 2.0 ** (8 * kind.itemsize - 1)
        raw = (wave.T * (full - 1) + (full if kind.kind == "u" else 0)).astype(kind)
    audio = decode(raw.tobytes(), pcm=PcmFormat(8_000, 2, encoding), channels="separate")
    assert audio.duration_s == pytest.approx(SECONDS)
    assert loudest_hz(audio.samples[1]) == pytest.approx(RIGHT_HZ, abs=1)
    assert np.std(audio.samples[0]) == pytest.approx(0.283, abs=0.01)


@pytest.mark.parametrize(("encoding", "subtype"), [("ulaw", "ULAW"), ("alaw", "ALAW"), ("s24le", "PCM_24")])
def test_raw_telephone_and_24_bit(encoding: Any, subtype: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tones(8_000)[0], 8_000, format="RAW", subtype=subtype, endian="LITTLE")
    audio = decode(buffer.getvalue(), pcm=PcmFormat(8_000, 1, encoding))
    assert loudest_hz(audio.samples[0]) == pytest.approx(LEFT_HZ, abs=1)


def test_raw_pcm_with_half_a_sample_is_refused() -> None:
    with pytest.raises(AudioValueError, match="no whole number"):
        decode(b"\0" * 101, pcm=PcmFormat(16_000))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_rate_hz": 0},
        {"sample_rate_hz": 16_000, "channels": 0},
        {"sample_rate_hz": 8_000, "encoding": "x"},
    ],
)
def test_impossible_pcm_formats_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(AudioValueError):
        PcmFormat(**wrong)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", KNOWN_LENGTH)
def test_a_cut_off_recording_is_an_error_that_names_it(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.bin"
    data = encoded(kind)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(AudioDecodeError, match=path.name) as caught:
        decode(path)
    assert caught.value.path == str(path)
    assert caught.value.fix


def test_a_wav_written_to_a_pipe_has_no_length_and_is_read_to_its_end() -> None:
    for length in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\x00\x00\x00\x00"):
        data = bytearray(encoded("wav-16"))
        at = data.index(b"data") + 4
        data[4:8] = data[at : at + 4] = length
        assert decode(bytes(data)).duration_s == pytest.approx(SECONDS)


def test_no_such_file_folder_and_bad_names(tmp_path: Path) -> None:
    with pytest.raises(AudioNotFoundError, match=r"There is no file .*nothing\.wav"):
        decode(tmp_path / "nothing.wav")
    with pytest.raises(AudioNotFoundError, match="is a folder"):
        decode(tmp_path)
    with pytest.raises(AudioNotFoundError, match="cannot be opened"):
        decode("a\0b.wav")
    with pytest.raises(AudioNotFoundError, match="cannot be opened"):
        decode(tmp_path / ("x" * 300))


def test_empty_files_and_headers_without_samples(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioEmptyError, match=r"empty\.wav"):
        decode(tmp_path / "empty.wav")
    for kind in ("WAV", "FLAC"):
        soundfile.write(tmp_path / f"none.{kind}", np.zeros((0, 1)), 16_000, format=kind)
        with pytest.raises(AudioEmptyError, match="none"):
            decode(tmp_path / f"none.{kind}")
    with pytest.raises(AudioEmptyError):
        decode(b"")


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/hostname\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"hello, this is text\n" * 50,
        b"RIFF",
        b"OggS",
        b"ID3",
        b"\0" * 10_000,
        b"\xff" * 10_000,
        PLAYLIST,
        b"ffconcat version 1.0\nfile 'x.wav'\n",
        b"%PDF-1.7\n" + b"0" * 500,
    ],
)
def test_what_is_no_audio_is_said_to_be_none(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_bytes(data)
    with pytest.raises(AudioDecodeError, match=r"note\.txt") as caught:
        decode(tmp_path / "note.txt")
    assert "Traceback" not in str(caught.value)


def test_a_video_without_sound_is_said_to_have_none() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(AudioDecodeError, match="no sound, only video"):
        decode(buffer.getvalue())


def test_float_files_with_nan_are_refused(tmp_path: Path) -> None:
    wave = tones(16_000)[0]
    wave[40_000] = np.nan
    soundfile.write(tmp_path / "broken.wav", wave, 16_000, subtype="FLOAT")
    with pytest.raises(AudioValueError, match=r"NaN or infinite samples in broken\.wav"):
        decode(tmp_path / "broken.wav")


@pytest.mark.parametrize(
    "kind", ["wav-16", "flac-16", "mp3", "mp3-no-header", "m4a", "webm", "webm-live", "ogg-opus"]
)
def test_the_longest_duration_holds_for_every_format(kind: str) -> None:
    with pytest.raises(AudioTooLongError, match="longer than 2 s"):
        decode(encoded(kind), limits=AudioSettings(max_duration_s=2))
    assert decode(encoded(kind), limits=AudioSettings(max_duration_s=4)).duration_s > 2


def test_the_largest_size_holds_and_an_endless_stream_is_read_no_further(tmp_path: Path) -> None:
    limits = AudioSettings(max_bytes=100_000)
    (tmp_path / "big.wav").write_bytes(b"\0" * 100_001)
    with pytest.raises(AudioTooLongError, match=r"big\.wav is larger than 100,000 bytes"):
        decode(tmp_path / "big.wav", limits=limits)
    with pytest.raises(AudioTooLongError):
        decode(b"\0" * 100_001, limits=limits)

    class Endless:
        given = 0

        def read(self, count: int) -> bytes:
            self.given += count
            return b"\0" * count

    endless = Endless()
    with pytest.raises(AudioTooLongError):
        decode(endless, limits=limits)  # type: ignore[arg-type]
    assert endless.given == 100_001


def test_sources_of_a_wrong_kind_are_refused(tmp_path: Path) -> None:
    for wrong in (None, 5, [0.0, 1.0], object()):
        with pytest.raises(AudioValueError, match=type(wrong).__name__):
            decode(wrong)  # type: ignore[arg-type]
    with pytest.raises(AudioValueError, match="instead of bytes"):
        decode(io.StringIO("text"))  # type: ignore[arg-type]
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 100)
    with (tmp_path / "binary").open(encoding="utf-8") as text, pytest.raises(AudioError):
        decode(text)  # type: ignore[arg-type]
    with pytest.raises(AudioValueError, match="carries its own"):
        decode(encoded("wav-16"), sample_rate=8_000)


def quiet_error_or_audio(data: bytes) -> Audio | None:
    try:
        audio = decode(data)
    except AudioError:
        return None
    assert np.isfinite(audio.samples).all()
    return audio


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=4_000))
def test_random_bytes_give_an_audio_error_or_audio(data: bytes) -> None:
    quiet_error_or_audio(data)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(MAKERS)),
    cut=st.floats(0, 1),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=40)), max_size=4),
    head=st.booleans(),
)
def test_cut_and_damaged_recordings_give_an_audio_error_or_audio(
    kind: str, cut: float, damage: list[tuple[float, bytes]], head: bool
) -> None:
    data = bytearray(encoded(kind))
    reach = min(len(data), 400) if head else len(data)
    for where, junk in damage:
        at = int(where * reach)
        data[at : at + len(junk)] = junk
    quiet_error_or_audio(bytes(data[: int(len(data) * cut)]))


def test_decoders_write_nothing_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    for kind in MAKERS:
        data = encoded(kind)
        for part in (data, data[: len(data) // 2], data[:200], data[100:]):
            quiet_error_or_audio(part)
    assert capfd.readouterr() == ("", "")


def test_no_file_stays_open(tmp_path: Path) -> None:
    kinds = ("wav-16", "mp3", "webm", "flac-16")
    paths = [tmp_path / kind for kind in kinds] + [tmp_path / f"cut-{kind}" for kind in kinds]
    for kind in kinds:
        (tmp_path / kind).write_bytes(encoded(kind))
        (tmp_path / f"cut-{kind}").write_bytes(encoded(kind)[:9_000])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in paths * 3:
        try:
            decode(path, limits=AudioSettings(max_duration_s=2))
        except AudioError:
            continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_importing_the_package_loads_no_decoder() -> None:
    code = (
        "import sys, orchestrator.audio; sys.exit(str({'av', 'soxr', 'soundfile'} & set(sys.modules) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() in ("", "0")
