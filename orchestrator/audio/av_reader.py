"""Decode with libav, through PyAV."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from orchestrator.audio.source import Opened
from orchestrator.audio.stream import LENGTH_SLACK_S, Block, Stream, cut_off, not_audio
from orchestrator.errors import AudioDecodeError

_CONTAINERS: Final = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,nistsphere,ogg,tta,w64,wav,wv"
)
"""What libav may open. Not playlists (HLS, concat), which would make it open other files and addresses."""

_ANY_TAGS: Final[dict[str, Any]] = (
    {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
"""Tags may be in any encoding: nobody reads them here. PyAV 19 has no such option and needs none."""

_GATHER: Final = 256
"""Packets are short; this many go into one block."""

_ESTIMATED: Final = frozenset({"mp3", "aac"})
"""Containers whose length libav may have guessed from the bit rate."""

_BAD_PACKETS: Final = {"mp3": 0.01}
"""The share of packets that may fail to decode. MP3 files are full of tags and joints that are no audio;
elsewhere a failing packet is damage."""


def open_container(opened: Opened) -> InputContainer | None:
    """``opened`` as libav sees it, None where it knows no such container."""
    try:
        options = {"format_whitelist": _CONTAINERS}
        container: InputContainer = av.open(opened.rewind(), mode="r", options=options, **_ANY_TAGS)
    except (av.FFmpegError, ValueError):
        return None
    return container


def open_av(opened: Opened, container: InputContainer) -> Stream:
    """The first audio stream of ``container``, which is closed when its blocks have been read.

    Raises:
        AudioDecodeError: it holds no sound. Reading blocks raises it for damage.
    """
    stream = next(iter(container.streams.audio), None)
    if stream is None:
        kinds = sorted({str(other.type) for other in container.streams}) or ["no stream"]
        container.close()
        raise not_audio(opened, f"it holds no sound, only {' and '.join(kinds)}")
    if stream.codec_context is None:
        container.close()
        raise not_audio(opened, "its codec is unknown")
    rate, channels = stream.rate or 0, stream.channels or 0
    if rate <= 0 or channels <= 0:
        container.close()
        raise not_audio(opened, "its header names no sample rate or no channels")
    promised = _promised_s(container, stream)
    known = promised if container.format.name not in _ESTIMATED else None
    return Stream(
        rate,
        channels,
        known,
        _blocks(opened, container, stream, _trusted(opened, container, stream, promised)),
    )


def _promised_s(container: InputContainer, stream: AudioStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1e6


def _trusted(
    opened: Opened, container: InputContainer, stream: AudioStream, promised: float | None
) -> float | None:
    """The promised length, or None where it may be libav's guess: file size over bit rate."""
    if promised is None or container.format.name not in _ESTIMATED or not stream.bit_rate:
        return promised
    guess = opened.size * 8 / stream.bit_rate
    return None if container.format.name == "aac" or abs(guess - promised) < 0.01 * promised else promised


def _blocks(
    opened: Opened, container: InputContainer, stream: AudioStream, promised: float | None
) -> Generator[Block, None, None]:
    kind = container.format.name
    rate, channels = stream.rate, stream.channels
    floats = av.AudioResampler(format="fltp")
    there = good = bad = 0
    with container:
        waiting: list[NDArray[np.float32]] = []
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    bad += 1
                    continue
                good += 1
                for frame in (out for decoded in frames for out in floats.resample(decoded)):
                    block = np.asarray(frame.to_ndarray(), dtype=np.float32)
                    if frame.sample_rate != rate or block.shape[0] != channels:
                        raise ValueError(
                            f"{frame.sample_rate} Hz, {block.shape[0]} channels after {there / rate:.2f} s"
                        )
                    there += block.shape[1]
                    waiting.append(block)
                if len(waiting) >= _GATHER:
                    yield np.concatenate(waiting, axis=1)
                    waiting = []
        except av.FFmpegError as error:
            raise cut_off(opened, f"decoding stops after {there / rate:.2f} s") from error
        except ValueError as error:
            raise AudioDecodeError(
                f"{opened.label} changes its format on the way: {error}",
                fix="convert it to WAV or FLAC first.",
                path=opened.path,
            ) from error
        if waiting:
            yield np.concatenate(waiting, axis=1)
    if bad > _BAD_PACKETS.get(kind, 0.0) * good:
        raise cut_off(opened, f"{bad} of its {good + bad} packets do not decode")
    if promised is not None and promised - there / rate > max(LENGTH_SLACK_S, 0.01 * promised):
        raise cut_off(opened, f"its header promises {promised:.2f} s, {there / rate:.2f} s are there")
