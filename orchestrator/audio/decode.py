"""`decode`: any recording to 16 kHz float32, within limits, or one clear error."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from orchestrator.audio.arrays import from_array
from orchestrator.audio.models import RATES_HZ, Audio, PcmFormat
from orchestrator.audio.source import Origin, open_source
from orchestrator.audio.stream import Block, Stream
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import PCM16_SCALE
from orchestrator.errors import AudioEmptyError, AudioTooLongError, AudioValueError
from orchestrator.settings import AudioSettings

Source = str | Path | bytes | bytearray | memoryview | BinaryIO | NDArray[Any]
"""A path, the bytes of a file, a file open for reading bytes, or samples ``[n]`` or ``[channels, n]``."""

ChannelMode = Literal["mix", "separate"]
"""``mix``: the mean of all channels, as one; ``separate``: every channel for itself, for recordings with one
speaker a channel."""

_ROOM: Final = 64_000_000
"""Samples that are made room for at once: a little more than an hour."""
_LOUDEST: Final = 16.0
"""Floats beyond this (24 dB over full scale) are integers that were not scaled."""


def decode(
    source: Source,
    *,
    channels: ChannelMode = "mix",
    sample_rate: int | None = None,
    pcm: PcmFormat | None = None,
    limits: AudioSettings | None = None,
) -> Audio:
    """Decode ``source``, resample it to 16 kHz and mix its channels if asked.

    A recording whose header promises more than there is raises an error; formats without such a promise
    (MP3 without a length header, live WebM) are read as far as they go.

    Args:
        source: see `Source`.
        channels: see `ChannelMode`.
        sample_rate: of an array, in Hz, 1,000 to 768,000; 16,000 if left out. Files say it themselves.
        pcm: what raw PCM consists of; then ``source`` has no header.
        limits: the largest size and duration, checked before and while decoding.

    Raises:
        AudioNotFoundError: no such file, a folder, or not readable.
        AudioDecodeError: not audio, no sound in it, cut off, damaged or of an unknown codec.
        AudioEmptyError: no samples.
        AudioValueError: NaN or infinite samples, an array of a wrong type or shape, an impossible rate.
        AudioTooLongError: over the limits.
    """
    limits = limits or AudioSettings()
    if isinstance(source, np.ndarray):
        rate = SAMPLE_RATE_HZ if sample_rate is None else sample_rate
        planes = from_array(source)
        stream = Stream(rate, planes.shape[0], planes.shape[1] / max(rate, 1), (block for block in (planes,)))
        return _assemble(stream, Origin("", "the given array", None), channels, limits)
    if sample_rate is not None:
        raise AudioValueError(
            "A sample rate was given for a recording that carries its own.",
            fix="leave it out; for raw PCM give a PcmFormat.",
        )
    if not isinstance(source, str | Path | bytes | bytearray | memoryview) and not hasattr(source, "read"):
        raise AudioValueError(
            f"A recording cannot be a {type(source).__name__}.",
            fix="pass a path, bytes, a binary file or a NumPy array.",
        )
    with open_source(source, limits.max_bytes) as opened:
        # Here, not above: the libraries take time to import, and arrays need none of them.
        from orchestrator.audio.readers import open_stream
        from orchestrator.audio.soundfile_reader import open_pcm

        stream = open_stream(opened) if pcm is None else open_pcm(opened, pcm)
        return _assemble(stream, opened.origin, channels, limits)


def _assemble(stream: Stream, origin: Origin, channels: ChannelMode, limits: AudioSettings) -> Audio:
    """Check, mix and resample block by block, so that no more than the result and a block is in memory."""
    rate = stream.rate_hz
    _check_rate(rate, origin)
    _check_duration(stream.duration_s or 0.0, limits, origin)
    planes = 1 if channels == "mix" else stream.channels
    resampler = _Resampler(rate, planes)
    result = _Growing(planes, math.ceil((stream.duration_s or 0.0) * SAMPLE_RATE_HZ))
    frames = 0
    with closing(stream.blocks) as blocks:
        for block in blocks:
            frames += block.shape[1]
            _check_duration(frames / rate, limits, origin)
            _check_values(block, origin)
            if planes < block.shape[0]:
                block = _floats(block).mean(axis=0, keepdims=True)
            if resampler.idle:
                result.add(block)
            else:
                result.add(resampler(_floats(block)))
    result.add(resampler.end())
    samples = result.samples()
    if not samples.shape[1]:
        raise AudioEmptyError(
            f"There is no sound in {origin.label}: {frames} samples.",
            fix="check that the recording was saved.",
            path=origin.path,
        )
    return Audio(samples=samples, name=origin.name, source_rate_hz=rate, source_channels=stream.channels)


class _Growing:
    """Float samples that come block by block; room for ``expected`` of them is there from the start."""

    def __init__(self, channels: int, expected: int) -> None:
        # A header may promise more than there is.
        self._room = np.empty((channels, min(expected, _ROOM // channels)), np.float32)
        self._size = 0

    def add(self, block: Block) -> None:
        """Append ``block``, scaled where it is of integers."""
        end = self._size + block.shape[1]
        if end > self._room.shape[1]:
            larger = np.empty((self._room.shape[0], max(end, 2 * self._room.shape[1])), np.float32)
            larger[:, : self._size] = self._room[:, : self._size]
            self._room = larger
        _scale(block, self._room[:, self._size : end])
        self._size = end

    def samples(self) -> NDArray[np.float32]:
        """All that came, C-contiguous."""
        whole = self._room[:, : self._size]
        # Room that was never written to takes no memory, but what grew may hold twice what is needed.
        return whole.copy() if 2 * self._size < self._room.shape[1] else np.ascontiguousarray(whole)


def _scale(block: Block, out: NDArray[np.float32]) -> None:
    if block.dtype == np.int16:
        np.multiply(block, np.float32(1 / PCM16_SCALE), out=out)
    else:
        out[:] = block


def _floats(block: Block) -> NDArray[np.float32]:
    if block.dtype == np.float32:
        return cast("NDArray[np.float32]", block)
    out = np.empty(block.shape, np.float32)
    _scale(block, out)
    return out


class _Resampler:
    """soxr's streaming resampler on ``[channels, n]`` blocks; nothing to do at 16 kHz."""

    def __init__(self, rate: int, channels: int) -> None:
        self._channels = channels
        self._stream = None
        if rate != SAMPLE_RATE_HZ:
            import soxr

            self._stream = soxr.ResampleStream(rate, SAMPLE_RATE_HZ, channels, dtype="float32")

    @property
    def idle(self) -> bool:
        """Whether blocks come back as they are."""
        return self._stream is None

    def __call__(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        return block if self._stream is None else self._run(block, last=False)

    def end(self) -> NDArray[np.float32]:
        """What the resampler still held back."""
        rest = np.zeros((self._channels, 0), np.float32)
        return rest if self._stream is None else self._run(rest, last=True)

    def _run(self, block: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
        if self._stream is None:
            return block
        interleaved = np.ascontiguousarray(block.T)
        out = self._stream.resample_chunk(interleaved, last=last)
        return np.asarray(out, dtype=np.float32).reshape(-1, self._channels).T


def _check_rate(rate: int, origin: Origin) -> None:
    low, high = RATES_HZ
    if not low <= rate <= high:
        raise AudioValueError(
            f"A sample rate of {rate} Hz ({origin.label}) is outside {low:,} to {high:,}.",
            fix="check the rate; convert the recording if it is right.",
            path=origin.path,
        )


def _check_duration(seconds: float, limits: AudioSettings, origin: Origin) -> None:
    if seconds > limits.max_duration_s:
        raise AudioTooLongError(
            f"{origin.label} is longer than {limits.max_duration_s:g} s, the configured maximum.",
            fix="raise audio.max_duration_s in the settings, or cut the recording.",
            path=origin.path,
        )


def _check_values(block: Block, origin: Origin) -> None:
    if not block.size or block.dtype == np.int16:
        return
    loudest = float(np.max(np.abs(block)))  # NaN if any sample is
    if not np.isfinite(loudest):
        raise AudioValueError(
            f"There are NaN or infinite samples in {origin.label}.",
            fix="find out what wrote them.",
            path=origin.path,
        )
    if loudest > _LOUDEST:
        raise AudioValueError(
            f"The samples in {origin.label} reach {loudest:g}, where full scale is 1.",
            fix="divide them by their full scale (32768 for 16 bits), or pass them as int16.",
            path=origin.path,
        )
