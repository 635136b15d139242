"""What every decoder of this package gives, and how it says that it cannot."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.audio.source import Opened
from orchestrator.errors import AudioDecodeError

Block = NDArray[np.float32] | NDArray[np.int16]
"""``[channels, n]``, any n; integers have a full scale of 32,768."""

LENGTH_SLACK_S: Final = 0.25
"""How much less than its header promises a recording may hold: encoders pad and trim at both ends."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An opened recording: what its header says, and its blocks, which can be read once.

    ``duration_s`` is None where the header does not say or may be guessing.
    """

    rate_hz: int
    channels: int
    duration_s: float | None
    blocks: Generator[Block, None, None]


def not_audio(opened: Opened, reason: str) -> AudioDecodeError:
    """The error for what no decoder can read."""
    return AudioDecodeError(
        f"{opened.label} cannot be read as audio: {reason}.",
        fix="use WAV, FLAC, Ogg, Opus, MP3, M4A, MP4 or WebM; for raw PCM say its rate and encoding.",
        path=opened.path,
    )


def cut_off(opened: Opened, reason: str) -> AudioDecodeError:
    """The error for a recording that begins well and does not go on."""
    return AudioDecodeError(
        f"{opened.label} is cut off or damaged: {reason}.",
        fix="copy the recording again, or convert what is left of it to WAV first.",
        path=opened.path,
    )
