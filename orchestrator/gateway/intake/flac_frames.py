"""Cuts a FLAC stream into its frames (RFC 9639, section 9).

A frame does not say its length: it ends where the next one's header begins, which is known by its sync code,
its checksum and the number that must follow. libav's own parser waits for ten frames before it gives the
first, 2.5 s of 16 kHz audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.gateway.intake.decoder import damaged

_SYNC: Final = (b"\xff\xf8", b"\xff\xf9")
"""Frames of a fixed and of a variable block size."""
_LONGEST_HEADER: Final = 16
_LONGEST_FRAME: Final = 65_535 * 8 * 4 + 1024
"""Bytes of 8 channels of 32 bits, stored as they are."""


@dataclass(frozen=True, slots=True)
class _Header:
    number: int
    following: int
    """The number that the next frame must have."""


class FlacFrames:
    """Takes bytes in any cut, from the first frame on."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 2
        self._sync = b""
        self._following: int | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes: each is known to be whole when the next one begins.

        Raises:
            AudioDecodeError: it is no FLAC.
        """
        self._buffer += data
        if self._following is None and not self._begin():
            return []
        frames: list[bytes] = []
        while (end := self._next()) is not None:
            frames.append(bytes(self._buffer[:end]))
            del self._buffer[:end]
            self._searched = 2
        if len(self._buffer) > _LONGEST_FRAME:
            raise damaged("its FLAC frames have no end")
        return frames

    def end(self) -> bytes:
        """The last frame; empty where there is none."""
        frame = bytes(self._buffer)
        self._buffer.clear()
        return frame

    def _begin(self) -> bool:
        if len(self._buffer) < _LONGEST_HEADER:
            return False
        header = _header(bytes(self._buffer[:_LONGEST_HEADER]))
        if header is None:
            raise damaged("no FLAC frame follows its header")
        self._sync, self._following = bytes(self._buffer[:2]), header.following
        return True

    def _next(self) -> int | None:
        """Where the next frame begins, None where that is not there yet."""
        while True:
            at = self._buffer.find(self._sync, self._searched)
            if at < 0:
                self._searched = max(self._searched, len(self._buffer) - 1)
                return None
            self._searched = at
            if len(self._buffer) < at + _LONGEST_HEADER:
                return None
            header = _header(bytes(self._buffer[at : at + _LONGEST_HEADER]))
            if header is not None and header.number == self._following:
                self._following = header.following
                return at
            self._searched = at + 1


def _header(data: bytes) -> _Header | None:
    """The frame header at the start of ``data``, None where there is none (section 9.1)."""
    if data[:2] not in _SYNC or data[3] & 1:
        return None
    size_code, rate_code = data[2] >> 4, data[2] & 15
    coded = _number(data[4:])
    if size_code == 0 or rate_code == 15 or coded is None:
        return None
    number, at = coded[0], 4 + coded[1]
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    size = _block_size(size_code, data[at : at + size_bytes])
    at += size_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if _crc8(data[:at]) != data[at]:
        return None
    return _Header(number, number + (size if data[1] & 1 else 1))


def _number(data: bytes) -> tuple[int, int] | None:
    """A number coded as UTF-8 codes characters, but up to 36 bits; and how many bytes it takes."""
    first = data[0]
    if first < 0x80:
        return first, 1
    length = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= length <= 7 or any(byte & 0xC0 != 0x80 for byte in data[1:length]):
        return None
    value = first & (0x7F >> length)
    for byte in data[1:length]:
        value = value << 6 | byte & 0x3F
    return value, length


def _block_size(code: int, extra: bytes) -> int:
    if code == 1:
        return 192
    if code <= 5:
        return 144 << code
    if code <= 7:
        return int.from_bytes(extra, "big") + 1
    return 1 << code


def _crc8(data: bytes) -> int:
    """Polynomial 0x07, from 0 (section 9.1.8)."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc
