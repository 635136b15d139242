"""Audio as applications hand it over, piece by piece, to 16 kHz 16-bit samples."""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.client.stream.codec import Pcm16
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import AudioValueError

logger = logging.getLogger(__name__)

Piece = bytes | bytearray | memoryview | NDArray[Any]
"""Some audio: 16-bit little-endian PCM, mono, or an array ``[n]`` of int16 or of floats in +-1."""

_FULL_SCALE: Final = 32_768
_LOUDEST: Final = 16.0
"""Floats beyond this (24 dB over full scale) are integers that were not scaled."""


class PcmIntake:
    """Turns pieces of any size into 16 kHz int16; a sample may be cut in two by the end of a piece."""

    def __init__(self, rate_hz: int) -> None:
        self._half = b""
        self._resampler: Any = None
        if rate_hz != SAMPLE_RATE_HZ:
            import soxr

            self._resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")

    def take(self, piece: Piece) -> Pcm16:
        """The samples of ``piece``, as far as the resampler gives them.

        Raises:
            AudioValueError: NaN or infinite samples, or another type or shape than `Piece`.
        """
        if isinstance(piece, np.ndarray):
            if self._half:
                raise AudioValueError(
                    "An array follows bytes that end in the middle of a sample.",
                    fix="give whole samples, or bytes only.",
                )
            samples = _checked(piece)
        elif isinstance(piece, bytes | bytearray | memoryview):
            data = self._half + bytes(piece)
            whole = len(data) - len(data) % 2
            self._half = data[whole:]
            samples = np.frombuffer(data[:whole], "<i2")
        else:
            raise AudioValueError(
                f"The source of the stream gives {type(piece).__name__} instead of audio.",
                fix="give bytes of 16-bit PCM, or arrays of float32 in +-1 or int16.",
            )
        return _to_int16(samples if self._resampler is None else self._resample(samples, last=False))

    def end(self) -> Pcm16:
        """What the resampler still held back."""
        if self._half:
            logger.warning("The audio of the stream ends in the middle of a sample; that half is left out.")
        if self._resampler is None:
            return np.zeros(0, np.int16)
        return _to_int16(self._resample(np.zeros(0, np.float32), last=True))

    def _resample(self, samples: NDArray[Any], *, last: bool) -> NDArray[np.float32]:
        if samples.dtype == np.int16:
            samples = samples.astype(np.float32) / _FULL_SCALE
        out = self._resampler.resample_chunk(np.ascontiguousarray(samples, np.float32), last=last)
        return np.asarray(out, np.float32)


def _checked(samples: NDArray[Any]) -> NDArray[Any]:
    if samples.ndim == 2 and samples.shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 1:
        raise AudioValueError(
            f"The source of the stream gives an array of shape {samples.shape}.",
            fix="give mono samples [n]: mix the channels, or open a stream for each.",
        )
    if samples.dtype == np.int16:
        return samples
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioValueError(
            f"The source of the stream gives an array of type {samples.dtype}.",
            fix="give float32 in +-1, or int16.",
        )
    loudest = float(np.abs(samples).max(initial=0.0))  # NaN if any sample is
    if not np.isfinite(loudest):
        raise AudioValueError(
            "There are NaN or infinite samples in the audio of the stream.", fix="find out what wrote them."
        )
    if loudest > _LOUDEST:
        raise AudioValueError(
            f"The samples of the stream reach {loudest:g}, where full scale is 1.",
            fix="divide them by their full scale (32768 for 16 bits), or give them as int16.",
        )
    return samples


def _to_int16(samples: NDArray[Any]) -> Pcm16:
    if samples.dtype == np.int16:
        return samples
    scaled: Pcm16 = np.clip(np.rint(samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    return scaled
