"""FLAC as a stream (RFC 9639): metadata blocks, then frames."""

from __future__ import annotations

from typing import Final

from orchestrator.gateway.intake.codec import PacketDecoder
from orchestrator.gateway.intake.decoder import Block, check_format, damaged
from orchestrator.gateway.intake.flac_frames import FlacFrames

_MAX_HEADER: Final = 32 << 20
"""Metadata (pictures) that is skipped, in bytes; a block may be 16 MiB long."""
_STREAMINFO_BYTES: Final = 34


class FlacDecoder:
    """`Decoder` of native FLAC."""

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()
        self._skipped = 0
        self._info = b""
        self._frames = FlacFrames()
        self._decoder: PacketDecoder | None = None
        self.rate_hz: int | None = None
        self.channels: int | None = None

    def feed(self, data: bytes) -> list[Block]:
        """See `Decoder.feed`."""
        if self._head is not None:
            self._head += data
            rest = self._parse(self._head)
            if rest is None:
                return []
            data, self._head = rest, None
        return self._decoded(data)

    def end(self) -> list[Block]:
        """See `Decoder.end`."""
        if self._decoder is None:
            raise damaged("it ends inside its FLAC header")
        last = self._frames.end()
        return (self._decoder.decode(last) if last else []) + self._decoder.decode(None)

    def _decoded(self, data: bytes) -> list[Block]:
        return [] if self._decoder is None else self._decoder.decode_all(self._frames.feed(data))

    def _parse(self, head: bytearray) -> bytes | None:
        """Take whole metadata blocks off ``head``; what follows the last one, None before that."""
        if not self._skipped:
            if len(head) < 4:
                return None
            del head[:4]
            self._skipped = 4
        while len(head) >= 4:
            length = int.from_bytes(head[1:4], "big")
            if not self._info and (head[0] & 0x7F or length != _STREAMINFO_BYTES):
                raise damaged("its FLAC header does not begin with STREAMINFO")
            if self._skipped + length > _MAX_HEADER:
                raise damaged(f"its FLAC header is longer than {_MAX_HEADER:,} bytes")
            if len(head) < 4 + length:
                return None
            if not self._info:
                self._begin(bytes(head[4 : 4 + length]))
            last = head[0] & 0x80
            del head[: 4 + length]
            self._skipped += 4 + length
            if last:
                return bytes(head)
        return None

    def _begin(self, info: bytes) -> None:
        """STREAMINFO: from bit 80 on, 20 bits of sample rate and 3 bits of channels - 1."""
        self._info = info
        self.rate_hz = int.from_bytes(info[10:13], "big") >> 4
        self.channels = ((info[12] >> 1) & 7) + 1
        check_format(self.rate_hz, self.channels)
        self._decoder = PacketDecoder("flac", info, self.channels)
