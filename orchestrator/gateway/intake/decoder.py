"""What a decoder of a part of a stream is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.audio import PcmFormat
from orchestrator.errors import AudioDecodeError, AudioValueError

Block = NDArray[np.float32]
"""``[channels, n]``, full scale +-1."""


class Decoder(Protocol):
    """Takes the bytes of a stream in any cut."""

    @property
    def rate_hz(self) -> int | None:
        """The stream's sample rate; None until the header has been read."""

    @property
    def channels(self) -> int | None:
        """How many there are; None until the header has been read."""

    def feed(self, data: bytes) -> list[Block]:
        """What ``data`` completes.

        Raises:
            AudioDecodeError: it is not what the header says, or damaged.
        """

    def end(self) -> list[Block]:
        """What was held back; the stream is over.

        Raises:
            AudioDecodeError: the stream ended in the middle of something.
        """


def damaged(what: str) -> AudioDecodeError:
    """The error for a stream that does not go on as it began."""
    return AudioDecodeError(f"The audio is damaged: {what}.", fix="check what sends it.")


def check_format(rate_hz: int, channels: int) -> None:
    """Raise `AudioDecodeError` where a header promises what no recorder makes."""
    try:
        PcmFormat(rate_hz, channels)
    except AudioValueError as error:
        raise damaged(f"its header says {rate_hz} Hz and {channels} channels") from error
