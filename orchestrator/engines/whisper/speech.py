"""Where somebody speaks in recordings, by the voice activity detector of the live streams."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import torch

from orchestrator.engines.base import Samples
from orchestrator.engines.vad import FRAME, Hysteresis, VoiceActivity
from orchestrator.engines.whisper.windows import Window, windows_of

_AT_ONCE: Final = 32
_ONSET: Final = 0.5
_OFFSET: Final = 0.35
"""Silero's own: speech begins at the first probability and lasts down to the second."""


class SpeechFinder:
    """Cuts recordings into windows of speech, on the CPU. Thread-safe: calls take turns."""

    def __init__(self) -> None:
        """Load the detector.

        Raises:
            MissingDependencyError: ``silero-vad`` is not installed.
            ModelLoadError: its weights are damaged.
        """
        self._activity = VoiceActivity(_AT_ONCE, torch.device("cpu"))
        self._lock = threading.Lock()

    def windows(self, batch: Sequence[Samples]) -> list[list[Window]]:
        """The windows of each recording; see `windows_of`.

        Raises:
            InferenceError: the detector failed.
        """
        result: list[list[Window]] = []
        for first in range(0, len(batch), _AT_ONCE):
            some = batch[first : first + _AT_ONCE]
            with self._lock:
                for stream in range(len(some)):
                    self._activity.reset(stream)
                heard = self._activity.push(range(len(some)), some)
            result += [
                windows_of(samples, Hysteresis(_ONSET, _OFFSET).push(probabilities), FRAME)
                for samples, probabilities in zip(some, heard, strict=True)
            ]
        return result
