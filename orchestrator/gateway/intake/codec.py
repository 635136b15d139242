"""libav decoders fed with packets, without a container."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.packet import Packet

from orchestrator.errors import AudioTooLongError
from orchestrator.gateway.intake.decoder import Block, damaged

_MAX_SAMPLES: Final = 1 << 24
"""Of all channels, from one call: silence shrinks to a ten-thousandth, and days of it would fill memory."""


def check_amount(samples: int, blocks: Sequence[Block]) -> int:
    """``samples``, of one piece of a stream so far, and those of ``blocks``.

    Raises:
        AudioTooLongError: they are more than are kept in memory.
    """
    samples += sum(block.size for block in blocks)
    if samples > _MAX_SAMPLES:
        raise AudioTooLongError(
            f"A piece of the audio holds more than {_MAX_SAMPLES:,} samples.", fix="send smaller pieces."
        )
    return samples


class PacketDecoder:
    """Packets of one codec to blocks."""

    def __init__(self, codec: str, extradata: bytes, channels: int) -> None:
        """Open the decoder.

        Args:
            codec: libav's name.
            extradata: the codec's header.
            channels: how many there are; what comes with another number is damage.
        """
        self._context = cast(AudioCodecContext, av.CodecContext.create(codec, "r"))
        self._context.extradata = extradata
        self._floats = av.AudioResampler(format="fltp")
        self._channels = channels

    def decode_all(self, packets: Iterable[bytes]) -> list[Block]:
        """Decode several packets of one piece of a stream."""
        blocks: list[Block] = []
        samples = 0
        for packet in packets:
            decoded = self.decode(packet)
            blocks += decoded
            samples = check_amount(samples, decoded)
        return blocks

    def decode(self, packet: bytes | None) -> list[Block]:
        """Decode one packet; None: what the decoder holds back."""
        given = None if packet is None else Packet(packet)
        try:
            frames = [out for frame in self._context.decode(given) for out in self._floats.resample(frame)]
            blocks = [np.asarray(frame.to_ndarray(), dtype=np.float32) for frame in frames]
        except (av.FFmpegError, ValueError) as error:
            raise damaged("a frame of it does not decode") from error
        if any(block.shape[0] != self._channels for block in blocks):
            raise damaged("its number of channels changes")
        return blocks
