"""Ogg Opus as a stream (RFC 7845)."""

from __future__ import annotations

from typing import Final

from orchestrator.errors import AudioDecodeError
from orchestrator.gateway.intake.codec import PacketDecoder, check_amount
from orchestrator.gateway.intake.decoder import Block, check_format, damaged
from orchestrator.gateway.intake.ogg import OggReader, Page

_RATE_HZ: Final = 48_000
"""What Opus decodes to, whatever it was recorded at."""


class OggDecoder:
    """`Decoder` of Ogg Opus."""

    def __init__(self) -> None:
        self._ogg = OggReader()
        self._headers = 0
        self._decoder: PacketDecoder | None = None
        self._skip = 0
        self._given = 0
        """Samples that came out of the decoder, those to skip included, so that it compares to a granule."""
        self._over = False
        self.rate_hz: int | None = None
        self.channels: int | None = None

    def feed(self, data: bytes) -> list[Block]:
        """See `Decoder.feed`."""
        blocks: list[Block] = []
        samples = 0
        for page in self._ogg.feed(data):
            decoded = self._page(page)
            blocks += decoded
            samples = check_amount(samples, decoded)
        return blocks

    def end(self) -> list[Block]:
        """See `Decoder.end`."""
        if self._decoder is None:
            raise damaged("it ends inside its Ogg header")
        if not self._ogg.whole:
            raise damaged("it ends inside an Ogg page")
        return []

    def _page(self, page: Page) -> list[Block]:
        if self._over:
            return []
        blocks: list[Block] = []
        for packet in page.packets:
            if self._headers < 2:
                self._header(packet)
            elif packet and self._decoder is not None:
                for block in self._decoder.decode(packet):
                    self._given += block.shape[1]
                    skipped = min(self._skip, block.shape[1])
                    self._skip -= skipped
                    blocks.append(block[:, skipped:])
        if page.last:
            self._over = True
            if page.granule is not None:
                blocks = _without_end(blocks, self._given - page.granule)
        return [block for block in blocks if block.shape[1]]

    def _header(self, packet: bytes) -> None:
        """Section 5: OpusHead (version, channels, pre-skip, ...), then OpusTags."""
        self._headers += 1
        if self._headers == 2:
            return
        if not packet.startswith(b"OpusHead"):
            raise AudioDecodeError(
                "The Ogg stream holds no Opus.", fix="send Ogg with Opus, FLAC without Ogg, or WAV."
            )
        if len(packet) < 19:
            raise damaged("its Opus header is cut short")
        self.rate_hz, self.channels = _RATE_HZ, packet[9]
        check_format(self.rate_hz, self.channels)
        self._skip = int.from_bytes(packet[10:12], "little")
        # libav would skip those itself, unseen by the count: it is told that there are none.
        self._decoder = PacketDecoder("opus", packet[:10] + b"\0\0" + packet[12:], self.channels)


def _without_end(blocks: list[Block], samples: int) -> list[Block]:
    """Take ``samples`` off the end: the last page's granule says where the sound ends (section 4.4)."""
    blocks = list(blocks)
    while samples > 0 and blocks:
        last = blocks.pop()
        if last.shape[1] > samples:
            blocks.append(last[:, : last.shape[1] - samples])
        samples -= last.shape[1]
    return blocks
