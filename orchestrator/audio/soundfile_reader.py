"""Decode with libsndfile, through soundfile."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import Any, Final

import soundfile

from orchestrator.audio.models import PcmFormat
from orchestrator.audio.source import Opened
from orchestrator.audio.stream import LENGTH_SLACK_S, Block, Stream, cut_off
from orchestrator.errors import AudioValueError

_BLOCK_S: Final = 10.0

_PLACEHOLDER_BYTES: Final = 0x7FFF_0000
"""Lengths from here up are what programs write that do not know the length when they start."""
_LENGTH_NOTE: Final = re.compile(r"(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)")
_LENGTH_SLACK_BYTES: Final = 1024
_OGG_MAX_PAGE: Final = 27 + 255 + 255 * 255
"""Bytes of the longest Ogg page."""

_SUBTYPES: Final = {
    "s8": ("PCM_S8", "LITTLE", 1),
    "u8": ("PCM_U8", "LITTLE", 1),
    "s16le": ("PCM_16", "LITTLE", 2),
    "s16be": ("PCM_16", "BIG", 2),
    "s24le": ("PCM_24", "LITTLE", 3),
    "s32le": ("PCM_32", "LITTLE", 4),
    "f32le": ("FLOAT", "LITTLE", 4),
    "f64le": ("DOUBLE", "LITTLE", 8),
    "ulaw": ("ULAW", "LITTLE", 1),
    "alaw": ("ALAW", "LITTLE", 1),
}


def open_pcm(opened: Opened, pcm: PcmFormat) -> Stream:
    """Read ``opened`` as raw PCM.

    Raises:
        AudioValueError: not a whole number of sample frames.
    """
    subtype, endian, width = _SUBTYPES[pcm.encoding]
    if opened.size % (width * pcm.channels):
        raise AudioValueError(
            f"{opened.label} is {opened.size} bytes, no whole number of {pcm.encoding} samples "
            f"in {pcm.channels} channel(s).",
            fix="check the encoding and the number of channels.",
            path=opened.path,
        )
    file = soundfile.SoundFile(
        _handle(opened),
        samplerate=pcm.sample_rate_hz,
        channels=pcm.channels,
        format="RAW",
        subtype=subtype,
        endian=endian,
        closefd=False,
    )
    return Stream(pcm.sample_rate_hz, pcm.channels, file.frames / pcm.sample_rate_hz, _blocks(opened, file))


def open_soundfile(opened: Opened) -> Stream | None:
    """What libsndfile makes of it; None where it does not know the format or finds no length."""
    try:
        file = soundfile.SoundFile(_handle(opened), closefd=False)
    except (soundfile.LibsndfileError, TypeError):  # TypeError: taken for raw PCM
        return None
    if file.frames <= 0 and file.format not in {"FLAC", "OGG"}:
        file.close()
        return None
    for promised, there in _LENGTH_NOTE.findall(file.extra_info):
        missing = int(promised) - int(there)
        if missing > _LENGTH_SLACK_BYTES and int(promised) < _PLACEHOLDER_BYTES:
            file.close()
            raise cut_off(opened, f"its header promises {int(promised):,} bytes, {int(there):,} are there")
    if file.format == "OGG" and not _ends_with_a_page(opened):
        file.close()
        raise cut_off(opened, "its last Ogg page is not whole")
    duration = file.frames / file.samplerate if file.frames < 2**62 else None
    return Stream(file.samplerate, file.channels, duration, _blocks(opened, file))


def _ends_with_a_page(opened: Opened) -> bool:
    """Whether an Ogg file ends where its last page ends; libogg passes over a last page that is not whole.

    A page (RFC 3533, section 6): 27 bytes of header, the last of them the number of segments; that many
    bytes, each the length of one segment; the segments.
    """
    position = opened.file.tell()
    start = max(0, opened.size - 2 * _OGG_MAX_PAGE)
    opened.file.seek(start)
    tail = opened.file.read()
    opened.file.seek(position)
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return page < 0  # no page at all: other data follows, which is the decoder's business
    lengths = tail[page + 27 : page + 27 + tail[page + 26]]
    return len(tail) >= page + 27 + tail[page + 26] + sum(lengths)


def _handle(opened: Opened) -> Any:
    # A descriptor for files: from a name that ends in .raw soundfile would conclude that it has no header.
    file = opened.rewind()
    if opened.path is None or not hasattr(file, "raw"):
        return file
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return file.fileno()


def _blocks(opened: Opened, file: Any) -> Generator[Block, None, None]:
    frames = max(1, int(_BLOCK_S * file.samplerate))
    # As they are: libsndfile's own scaling to floats takes ten times as long as reading.
    kind = "int16" if file.subtype == "PCM_16" else "float32"
    promised = file.frames
    there = 0
    with file:
        while True:
            try:
                block = file.read(frames, dtype=kind, always_2d=True)
            except soundfile.LibsndfileError as error:
                raise cut_off(opened, f"decoding stops after {there / file.samplerate:.2f} s") from error
            if not len(block):
                break
            there += len(block)
            yield block.T
        if promised - there > LENGTH_SLACK_S * file.samplerate:
            rate = file.samplerate
            raise cut_off(
                opened, f"its header promises {promised / rate:.2f} s, {there / rate:.2f} s are there"
            )
