"""Ogg pages to packets (RFC 3533), of the first logical stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.gateway.intake.decoder import damaged

_HEADER_BYTES: Final = 27
_CONTINUED: Final = 1
_LAST: Final = 4
_UNSET: Final = 2**64 - 1
_MAX_PACKET: Final = 1 << 20
"""Far more than a packet of sound; titles with pictures are longer and are dropped."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one page completes.

    Attributes:
        packets: in order; a packet too long to be sound is empty.
        granule: the position after the last of them, in the codec's unit; None where none ends here.
        last: whether the stream ends with this page.
    """

    packets: tuple[bytes, ...]
    granule: int | None
    last: bool


class OggReader:
    """Takes bytes in any cut and gives pages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._serial: bytes | None = None
        self._open = bytearray()
        self._dropping = False

    @property
    def whole(self) -> bool:
        """Whether nothing is waiting for more bytes."""
        return not self._buffer and not self._open

    def feed(self, data: bytes) -> list[Page]:
        """The pages that ``data`` completes.

        Raises:
            AudioDecodeError: it is no Ogg.
        """
        self._buffer += data
        pages: list[Page] = []
        while (size := self._page_bytes()) is not None:
            page = bytes(self._buffer[:size])
            del self._buffer[:size]
            serial = page[14:18]
            if self._serial is None:
                self._serial = serial
            if serial == self._serial:
                pages.append(self._read(page))
        return pages

    def _page_bytes(self) -> int | None:
        """The length of the page at the start, None where it is not whole."""
        buffer = self._buffer
        if buffer[:4] != b"OggS"[: len(buffer)] or (len(buffer) > 4 and buffer[4]):
            raise damaged("it is no Ogg stream any more")
        if len(buffer) < _HEADER_BYTES or len(buffer) < _HEADER_BYTES + buffer[26]:
            return None
        size = _HEADER_BYTES + buffer[26] + sum(buffer[_HEADER_BYTES : _HEADER_BYTES + buffer[26]])
        return size if len(buffer) >= size else None

    def _read(self, page: bytes) -> Page:
        flags, granule = page[5], int.from_bytes(page[6:14], "little")
        lengths = page[_HEADER_BYTES : _HEADER_BYTES + page[26]]
        if not flags & _CONTINUED:
            self._open.clear()
            self._dropping = False
        packets = []
        at = _HEADER_BYTES + len(lengths)
        for length in lengths:
            if not self._dropping:
                self._open += page[at : at + length]
                if len(self._open) > _MAX_PACKET:
                    self._open.clear()
                    self._dropping = True
            at += length
            if length < 255:  # a segment that is not full ends its packet
                packets.append(bytes(self._open))
                self._open.clear()
                self._dropping = False
        return Page(tuple(packets), None if granule == _UNSET else granule, bool(flags & _LAST))
