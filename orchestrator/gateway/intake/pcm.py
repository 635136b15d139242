"""Raw PCM: samples of all channels in turn, cut anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.audio import PcmEncoding, PcmFormat
from orchestrator.gateway.intake.decoder import Block, damaged


class PcmDecoder:
    """`Decoder` of a `PcmFormat`."""

    def __init__(self, pcm: PcmFormat) -> None:
        self._width, self._convert = _CODECS[pcm.encoding]
        self._pcm = pcm
        self._rest = b""

    @property
    def rate_hz(self) -> int:
        """See `Decoder.rate_hz`."""
        return self._pcm.sample_rate_hz

    @property
    def channels(self) -> int:
        """See `Decoder.channels`."""
        return self._pcm.channels

    def feed(self, data: bytes) -> list[Block]:
        """See `Decoder.feed`."""
        data = self._rest + data
        size = self._width * self._pcm.channels
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        if not whole:
            return []
        samples = self._convert(data[:whole])
        return [np.ascontiguousarray(samples.reshape(-1, self._pcm.channels).T, dtype=np.float32)]

    def end(self) -> list[Block]:
        """See `Decoder.end`."""
        if self._rest:
            raise damaged(f"it ends {len(self._rest)} bytes into a sample")
        return []


def _linear(dtype: str, scale: float) -> Callable[[bytes], NDArray[np.floating]]:
    def convert(data: bytes) -> NDArray[np.floating]:
        samples: NDArray[np.float32] = np.frombuffer(data, dtype).astype(np.float32)
        return samples / np.float32(scale)

    return convert


def _unsigned(data: bytes) -> NDArray[np.floating]:
    return (np.frombuffer(data, np.uint8).astype(np.float32) - 128.0) / np.float32(128.0)


def _int24(data: bytes) -> NDArray[np.floating]:
    padded = np.zeros((len(data) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return _linear("<i4", 2.0**31)(padded.tobytes())


def _floats(dtype: str) -> Callable[[bytes], NDArray[np.floating]]:
    def convert(data: bytes) -> NDArray[np.floating]:
        # Anything may be in the bytes; what is no number or far over full scale is no sound either.
        samples: NDArray[np.floating] = np.nan_to_num(np.clip(np.frombuffer(data, dtype), -16.0, 16.0))
        return samples.astype(np.float32)

    return convert


def _expanded(table: NDArray[np.float32]) -> Callable[[bytes], NDArray[np.floating]]:
    def convert(data: bytes) -> NDArray[np.floating]:
        samples: NDArray[np.float32] = table[np.frombuffer(data, np.uint8)]
        return samples

    return convert


def _mulaw_table() -> NDArray[np.float32]:
    """ITU-T G.711, table 2a: inverted bits; sign, 3 bits of segment, 4 bits inside it; bias 33 of 8192."""
    code = ~np.arange(256, dtype=np.uint8)
    segment, step = (code >> 4) & 7, code & 15
    magnitude = ((2 * step.astype(np.int32) + 33) << segment.astype(np.int32)) - 33
    return (np.where(code & 0x80, -magnitude, magnitude) / 8192.0).astype(np.float32)


def _alaw_table() -> NDArray[np.float32]:
    """ITU-T G.711, table 1a: even bits inverted; sign, 3 bits of segment, 4 bits inside it; of 4096."""
    code = np.arange(256, dtype=np.uint8) ^ np.uint8(0x55)
    segment, step = ((code >> 4) & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = np.where(segment == 0, 2 * step + 1, (2 * step + 33) << np.maximum(segment - 1, 0))
    return (np.where(code & 0x80, magnitude, -magnitude) / 4096.0).astype(np.float32)


_CODECS: Final[dict[PcmEncoding, tuple[int, Callable[[bytes], NDArray[np.floating]]]]] = {
    "s8": (1, _linear("i1", 2.0**7)),
    "u8": (1, _unsigned),
    "s16le": (2, _linear("<i2", 2.0**15)),
    "s16be": (2, _linear(">i2", 2.0**15)),
    "s24le": (3, _int24),
    "s32le": (4, _linear("<i4", 2.0**31)),
    "f32le": (4, _floats("<f4")),
    "f64le": (8, _floats("<f8")),
    "ulaw": (1, _expanded(_mulaw_table())),
    "alaw": (1, _expanded(_alaw_table())),
}
"""Bytes of a sample, and how to convert them."""
