"""WAV as a stream: RIFF chunks until the samples begin, then raw PCM."""

from __future__ import annotations

import struct
from typing import Final

from orchestrator.audio import PcmEncoding, PcmFormat
from orchestrator.errors import AudioDecodeError
from orchestrator.gateway.intake.decoder import Block, check_format, damaged
from orchestrator.gateway.intake.pcm import PcmDecoder

_MAX_HEADER: Final = 1 << 20
"""Chunks before the samples (titles, cue points, pictures) that are waited for, in bytes."""
_UNKNOWN_LENGTH: Final = 0x7FFF_0000
"""Lengths from here up, and none, are what programs write that do not know the length when they start."""
_EXTENSIBLE: Final = 0xFFFE
_FORMATS: Final[dict[tuple[int, int], PcmEncoding]] = {
    (1, 8): "u8",
    (1, 16): "s16le",
    (1, 24): "s24le",
    (1, 32): "s32le",
    (3, 32): "f32le",
    (3, 64): "f64le",
    (6, 8): "alaw",
    (7, 8): "ulaw",
}
"""Format tag and bits of a sample, as in Microsoft's mmreg.h."""


class WavDecoder:
    """`Decoder` of WAV."""

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()
        self._pcm: PcmDecoder | None = None
        self._left: int | None = None

    @property
    def rate_hz(self) -> int | None:
        """See `Decoder.rate_hz`."""
        return None if self._pcm is None else self._pcm.rate_hz

    @property
    def channels(self) -> int | None:
        """See `Decoder.channels`."""
        return None if self._pcm is None else self._pcm.channels

    def feed(self, data: bytes) -> list[Block]:
        """See `Decoder.feed`."""
        if self._head is not None:
            self._head += data
            start = self._parse(self._head)
            if start is None:
                if len(self._head) > _MAX_HEADER:
                    raise damaged(f"its WAV header has no samples after {_MAX_HEADER:,} bytes")
                return []
            data = bytes(self._head[start:])
            self._head = None
        if self._left is not None:
            data = data[: self._left]  # what follows the samples are chunks of other things
            self._left -= len(data)
        return [] if self._pcm is None else self._pcm.feed(data)

    def end(self) -> list[Block]:
        """See `Decoder.end`; a stream may stop before its promised length."""
        if self._pcm is None:
            raise damaged("it ends inside its WAV header")
        return self._pcm.end()

    def _parse(self, head: bytearray) -> int | None:
        """Read what is there of the header; where the samples begin, None where it is not whole yet."""
        at = 12
        while len(head) >= at + 8:
            name, length = struct.unpack_from("<4sI", head, at)
            at += 8
            if name == b"data":
                if self._pcm is None:
                    raise damaged("its WAV header does not say what the samples are")
                self._left = length if 0 < length < _UNKNOWN_LENGTH else None
                return at
            if name == b"fmt " and len(head) >= at + length:
                self._pcm = PcmDecoder(_format(bytes(head[at : at + length])))
            at += length + length % 2
        return None


def _format(chunk: bytes) -> PcmFormat:
    if len(chunk) < 16:
        raise damaged("its WAV header's format is cut short")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        tag = struct.unpack_from("<H", chunk, 24)[0]
    encoding = _FORMATS.get((tag, bits))
    if encoding is None:
        raise AudioDecodeError(
            f"WAV with {bits}-bit samples of format {tag} cannot be read as a stream.",
            fix="send PCM, floats, mu-law or A-law.",
        )
    check_format(rate, channels)
    return PcmFormat(rate, channels, encoding)
