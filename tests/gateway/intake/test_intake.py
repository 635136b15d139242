"""Streams cut anywhere give what the whole file gives, and broken ones one clear error."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audio import PcmFormat, decode
from orchestrator.errors import AudioDecodeError, AudioError, AudioTooLongError, AudioValueError
from orchestrator.gateway.intake import PIECE_BYTES, AudioSpec, Encoding, Intake

RATE = 24_000


@cache
def tone(channels: int = 1, rate: int = RATE, seconds: float = 0.5) -> Any:
    """A sweep on each channel, ``[n, channels]``."""
    at = np.arange(int(seconds * rate)) / rate
    planes = [np.sin(2 * np.pi * (200 + 150 * channel + 300 * at) * at) for channel in range(channels)]
    return (0.4 * np.stack(planes, axis=1)).astype(np.float32)


@cache
def file(kind: str, subtype: str, channels: int = 1, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(channels, rate), rate, format=kind, subtype=subtype)
    return buffer.getvalue()


@cache
def opus(channels: int = 1) -> bytes:
    """Ogg Opus as libav writes it."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono" if channels == 1 else "stereo")
        samples = np.ascontiguousarray(tone(channels, 48_000).reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(
            samples, format="flt", layout="mono" if channels == 1 else "stereo"
        )
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()


def streamed(data: bytes, spec: AudioSpec = AudioSpec(), cuts: list[int] | int = 1000) -> Any:  # noqa: B008
    intake = Intake(spec)
    parts = []
    at = 0
    for size in [cuts] * (len(data) // cuts + 1) if isinstance(cuts, int) else cuts:
        parts.append(intake.feed(data[at : at + size]))
        at += size
    parts.append(intake.feed(data[at:]))
    return np.concatenate([*parts, intake.end()])


CONTAINERS = [
    *[("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")],
    *[("WAV", subtype) for subtype in ("ULAW", "ALAW")],
    ("WAVEX", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("kind", "subtype"), CONTAINERS)
def test_a_container_in_pieces_is_the_file(kind: str, subtype: str, channels: int) -> None:
    data = file(kind, subtype, channels)
    whole = decode(data).samples[0]
    assert whole.size == pytest.approx(8000, abs=2)
    np.testing.assert_allclose(streamed(data), whole, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 2])
def test_opus_in_pieces_is_the_file(channels: int) -> None:
    """Two decoders of one format: the same sound at the same place, not the same bits."""
    data = opus(channels)
    whole, pieces = decode(data).samples[0], streamed(data, AudioSpec(Encoding.OPUS))
    assert pieces.size == pytest.approx(whole.size, abs=2)
    size = min(whole.size, pieces.size)
    assert np.abs(pieces[:size] - whole[:size]).max() < 0.01
    assert np.abs(whole).max() > 0.2


@pytest.mark.parametrize(
    ("encoding", "subtype", "pcm"),
    [
        (Encoding.PCM16, "PCM_16", "s16le"),
        (Encoding.MULAW, "ULAW", "ulaw"),
        (Encoding.ALAW, "ALAW", "alaw"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_raw_samples(encoding: Encoding, subtype: str, pcm: Any, channels: int, rate: int) -> None:
    raw = file("RAW", subtype, channels, rate)
    whole = decode(raw, pcm=PcmFormat(rate, channels, pcm)).samples[0]
    pieces = streamed(raw, AudioSpec(encoding, rate, channels), cuts=777)
    np.testing.assert_allclose(pieces, whole, atol=2e-6)


def test_a_wav_header_before_linear_pcm_is_a_header() -> None:
    data = file("WAV", "PCM_16")
    np.testing.assert_array_equal(streamed(data, AudioSpec(Encoding.PCM16, RATE, 1)), streamed(data))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60))
def test_any_cut_gives_the_same(cuts: list[int]) -> None:
    for data in (file("WAV", "PCM_24", 2), file("FLAC", "PCM_16"), opus()):
        np.testing.assert_array_equal(streamed(data, cuts=cuts), streamed(data, cuts=len(data)))


def test_byte_by_byte() -> None:
    data = file("WAV", "PCM_16")[:4001]
    with pytest.raises(AudioDecodeError, match="1 bytes into a sample"):
        streamed(data, cuts=1)
    assert streamed(data[:-1], cuts=1).size == pytest.approx(1319, abs=2)


def test_what_follows_the_samples_is_no_sound() -> None:
    data = file("WAV", "PCM_16")
    assert streamed(data + b"LIST\x04\x00\x00\x00abcd" * 500).size == streamed(data).size


@pytest.mark.parametrize("length", [0, 0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_wav_of_unknown_length(length: int) -> None:
    data = bytearray(file("WAV", "PCM_16"))
    at = data.index(b"data") + 4
    data[at : at + 4] = length.to_bytes(4, "little")
    assert streamed(bytes(data)).size == streamed(file("WAV", "PCM_16")).size


def test_nothing_at_all() -> None:
    assert Intake(AudioSpec()).end().size == 0


def fails(data: bytes, spec: AudioSpec, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        streamed(data, spec)


def test_what_is_said_must_be_so() -> None:
    wav, flac = file("WAV", "PCM_16"), file("FLAC", "PCM_16")
    fails(flac, AudioSpec(Encoding.OPUS), "said to be OGGOPUS and is not: it is FLAC")
    fails(wav, AudioSpec(Encoding.FLAC), "said to be FLAC and is not: it is WAV")
    fails(b"\0" * 100, AudioSpec(Encoding.FLAC), "no header that is known")
    fails(b"\0" * 100, AudioSpec(), "no header that is known here, and its encoding was not given")
    fails(b"ID3 something", AudioSpec(), "not given")
    fails(b"\0" * 100, AudioSpec(Encoding.PCM16), "LINEAR_PCM without a header needs a sample rate")
    fails(wav, AudioSpec(Encoding.PCM16, 16_000), "sample_rate_hertz is 16000, .* says 24000")
    fails(flac, AudioSpec(channels=2), "audio_channel_count is 2, .* says 1")
    fails(file("OGG", "VORBIS"), AudioSpec(), "holds no Opus")
    streamed(opus(), AudioSpec(Encoding.OPUS, 16_000))


def test_streams_that_end_too_early() -> None:
    for data in (file("WAV", "PCM_16"), file("FLAC", "PCM_16"), opus()):
        fails(data[:30], AudioSpec(), "ends inside its")
    fails(file("WAV", "PCM_16")[:5], AudioSpec(), "not given")
    fails(opus()[:-5], AudioSpec(), "ends inside an Ogg page")


def test_headers_without_end() -> None:
    fails(b"RIFF\0\0\0\0WAVE" + b"LIST\xff\xff\xff\x0f" + b"x" * (1 << 21), AudioSpec(), "no samples after")
    picture = b"\x01\xff\xff\xff" + b"x" * 0xFFFFFF
    flac = file("FLAC", "PCM_16")[: 4 + 38]
    flac = flac[:4] + bytes([flac[4] & 0x7F]) + flac[5:]
    intake = Intake(AudioSpec())
    intake.feed(flac + picture)
    with pytest.raises(AudioDecodeError, match="header is longer"):
        intake.feed(picture + picture)


def test_silence_that_would_fill_the_memory() -> None:
    """In pieces it is taken; all at once it is refused, before it is unpacked whole."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(17_000_000, np.int16), 16_000, format="FLAC", subtype="PCM_16")
    data = buffer.getvalue()
    assert len(data) < 1_000_000
    with pytest.raises(AudioTooLongError, match="holds more than"):
        streamed(data, cuts=len(data))
    assert streamed(data, cuts=PIECE_BYTES).size == 17_000_000
    pages = opus()
    last = pages.rindex(b"OggS")
    packet = b"\x01"  # two frames of 10 ms, both empty: nothing is heard
    page = pages[last : last + 5] + b"\0" + pages[last + 6 : last + 26] + b"\xff" + b"\x01" * 255
    with pytest.raises(AudioTooLongError, match="holds more than"):
        streamed(pages[:last] + (page + packet * 255) * 200, cuts=1 << 20)


def test_flac_comes_frame_by_frame() -> None:
    """Live sound must not wait for more of it than one frame."""
    data = file("FLAC", "PCM_16", rate=16_000)
    intake = Intake(AudioSpec())
    half = intake.feed(data[: len(data) // 2]).size
    assert half > 4000 - 2 * 4096
    frames = [intake.feed(data[at : at + 100]).size for at in range(len(data) // 2, len(data), 100)]
    assert {size for size in frames if size} <= {4096}
    assert half + sum(frames) + intake.end().size == 8000


@pytest.mark.parametrize("block_size", [192, 576, 1000, 4096, 70, 4608, 65_535])
def test_flac_with_blocks_of_any_size(block_size: int) -> None:
    samples = (tone(1, 16_000, 5.0)[:, 0] * 32_767).astype(np.int16)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream(
            "flac", rate=16_000, layout="mono", options={"frame_size": str(block_size)}
        )
        for begin in range(0, len(samples), block_size):
            frame = av.AudioFrame.from_ndarray(
                samples[None, begin : begin + block_size], format="s16", layout="mono"
            )
            frame.sample_rate = 16_000
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    np.testing.assert_allclose(streamed(buffer.getvalue(), cuts=333), samples / 32_768, atol=1e-6)


def test_impossible_headers() -> None:
    wav = bytearray(file("WAV", "PCM_16"))
    at = wav.index(b"fmt ") + 8
    for offset, value in ((0, b"\x55\x00"), (2, b"\xff\xff"), (4, b"\0\0\0\0"), (14, b"\x07\x00")):
        broken = bytes(wav[: at + offset] + value + wav[at + offset + len(value) :])
        fails(broken, AudioSpec(), "cannot be read as a stream|its header says")


@given(
    st.sampled_from(["wav", "flac", "opus"]),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=20),
    st.integers(0, 6000),
)
def test_damage_is_an_error_or_a_sound(kind: str, changes: list[tuple[int, int]], length: int) -> None:
    whole = {"wav": file("WAV", "FLOAT"), "flac": file("FLAC", "PCM_16"), "opus": opus()}[kind]
    data = bytearray(whole)
    for at, value in changes:
        data[at % len(data)] = value
    try:
        samples = streamed(bytes(data[: max(12, length)]))
    except AudioError:
        return
    assert np.isfinite(samples).all()


@given(st.binary(max_size=2000), st.sampled_from(list(Encoding)))
def test_noise_is_an_error_or_a_sound(noise: bytes, encoding: Encoding) -> None:
    for head in (b"", b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS\0"):
        try:
            samples = streamed(head + noise, AudioSpec(encoding, 16_000))
        except AudioError:
            continue
        assert np.isfinite(samples).all()


def test_the_error_says_what_to_do() -> None:
    with pytest.raises(AudioValueError) as caught:
        streamed(b"\0" * 100, AudioSpec(Encoding.MULAW))
    assert caught.value.fix == "say sample_rate_hertz."
