"""Windows of speech: what Whisper's network takes at once, 30 s at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import Samples
from orchestrator.engines.speech_gate import FRAME, pieces_of, surroundings

WINDOW_S: Final = 30.0
"""The audio that the network was trained with, and always computes."""
_MAX_PIECE_S: Final = 29.5
"""Leaves room for what is heard around a piece."""
_JOIN_S: Final = 2.0
"""Context helps, and a long pause makes the decoder invent something: a longer one parts windows."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a recording: its first sample's number, and float32 ``[n]`` at 16 kHz, at most 30 s."""

    start: int
    samples: Samples

    @property
    def start_ms(self) -> int:
        """Where it begins in the recording."""
        return self.start * 1000 // SAMPLE_RATE_HZ

    @property
    def duration_ms(self) -> int:
        """How long it is, a begun millisecond counted."""
        return -(-self.samples.size * 1000 // SAMPLE_RATE_HZ)


def windows_of(samples: Samples, speech: NDArray[np.bool_], frame: int) -> list[Window]:
    """The windows of a recording, in order and apart from each other; none where nobody speaks.

    Args:
        samples: float32 ``[n]`` at 16 kHz.
        speech: whether each frame of ``frame`` samples is speech. The rest of the recording, less than a
            frame, is as the last.
        frame: a multiple of `speech_gate.FRAME`.
    """
    count = samples.size // FRAME
    fine = np.repeat(speech, frame // FRAME)
    active = np.zeros(count, np.bool_)
    active[: fine.size] = fine[:count]
    active[fine.size :] = bool(speech.size and speech[-1])
    found = pieces_of(samples, active, max_s=_MAX_PIECE_S, join_s=_JOIN_S)
    return [
        Window(start * FRAME, samples[start * FRAME : end * FRAME])
        for start, end in surroundings(found, count)
    ]
