"""Which frames of live streams are speech, by the voice activity detector, as they are asked for.

The detector is ahead of the recogniser: it hears a stream's audio as it comes, and what it says waits here
until the recogniser commits the same frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.engines import vad
from orchestrator.engines.base import Samples
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.errors import UnsupportedModelError


class StreamSpeech:
    """Speech of the streams that ask for the detector; it is loaded with the first."""

    def __init__(self, places: int, device: torch.device, frame: int) -> None:
        """Make room for streams in places ``0 .. places - 1``; ``frame`` is the recogniser's, in samples."""
        self._places = places
        self._device = device
        self._frame = frame
        self._detector: vad.VoiceActivity | None = None
        self._levels: dict[int, vad.Hysteresis] = {}
        self._ahead: dict[int, list[bool]] = {}
        self._first: dict[int, int] = {}

    def open(self, place: int, options: EndpointingOptions) -> None:
        """A stream begins in ``place``; its ``options`` say which probabilities are speech.

        Raises:
            MissingDependencyError: the detector is not installed.
            ModelLoadError: its weights are damaged, or the recogniser's frames are of another length.
        """
        if self._frame != vad.FRAME:
            raise UnsupportedModelError(
                f"the detector has frames of {vad.FRAME} samples, the recogniser of {self._frame}",
                fix="ask for speech_from = tokens",
            )
        if self._detector is None:
            self._detector = vad.VoiceActivity(self._places, self._device)
        self._detector.reset(place)
        self._levels[place] = vad.Hysteresis(options.vad_onset, options.vad_offset)
        self._ahead[place] = []
        self._first[place] = 0

    def push(self, heard: Sequence[tuple[int, Samples]]) -> None:
        """Take the next samples of the streams in some places, each once.

        Raises:
            InferenceError: the detector failed.
        """
        if self._detector is None or not heard:
            return
        places = [place for place, _ in heard]
        found = self._detector.push(places, [samples for _, samples in heard])
        for place, probabilities in zip(places, found, strict=True):
            self._ahead[place] += self._levels[place].push(probabilities).tolist()

    def ahead(self, place: int, frames: int) -> NDArray[np.bool_]:
        """The next ``frames`` frames that `take` will be asked for, as far as they are known."""
        return np.array(self._ahead[place][:frames], dtype=np.bool_)

    def take(self, place: int, first: int, frames: int) -> NDArray[np.bool_]:
        """``[frames]`` whether each frame from ``first`` on is speech; they will not be asked for again.

        A frame whose audio is not complete is as the one before it.
        """
        ahead = self._ahead[place]
        # After a forced end the recogniser is past an incomplete frame, which the detector tells of later.
        del ahead[: first - self._first[place]]
        speech = np.zeros(frames, dtype=np.bool_)
        known = ahead[:frames]
        speech[: len(known)] = known
        speech[len(known) :] = known[-1] if known else False
        del ahead[:frames]
        self._first[place] = first + len(known)
        return speech
