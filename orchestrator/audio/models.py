"""What decoding gives, and how to describe audio that has no header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import AudioValueError

RATES_HZ: Final = (1_000, 768_000)
"""Sample rates taken: below, no speech is left; above, no recorder goes."""
MAX_CHANNELS: Final = 64
"""More than any recorder has."""

PcmEncoding = Literal["s8", "u8", "s16le", "s16be", "s24le", "s32le", "f32le", "f64le", "ulaw", "alaw"]
"""Sample encodings of raw audio: s signed, u unsigned, f float; bits; little or big endian."""


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """What raw PCM, which has no header, consists of; channels are interleaved.

    Raises:
        AudioValueError: a rate outside 1,000 to 768,000 Hz, channels outside 1 to 64, or an unknown encoding.
    """

    sample_rate_hz: int
    channels: int = 1
    encoding: PcmEncoding = "s16le"

    def __post_init__(self) -> None:
        if self.encoding not in get_args(PcmEncoding):
            raise AudioValueError(
                f"There is no PCM encoding {self.encoding!r}.",
                fix=f"use one of {', '.join(get_args(PcmEncoding))}.",
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise AudioValueError(
                f"{self.channels} channels are not possible.", fix=f"use 1 to {MAX_CHANNELS}."
            )
        low, high = RATES_HZ
        if not low <= self.sample_rate_hz <= high:
            raise AudioValueError(
                f"A sample rate of {self.sample_rate_hz} Hz is not possible.", fix=f"use {low:,} to {high:,}."
            )


@dataclass(frozen=True, slots=True)
class Audio:
    """A decoded recording.

    Attributes:
        samples: float32 ``[channels, n]`` at 16 kHz, C-contiguous, finite, full scale +-1 (a float source
            may go somewhat beyond); one channel where the channels were mixed. ``n >= 1``.
        name: the file's name without its folder; empty where the source has none.
        source_rate_hz: the recording's own sample rate.
        source_channels: how many channels the recording has.
    """

    samples: NDArray[np.float32]
    name: str
    source_rate_hz: int
    source_channels: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return int(self.samples.shape[1]) / SAMPLE_RATE_HZ
