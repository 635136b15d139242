"""When an utterance begins and ends: Riva's endpointing parameters, and the state machine that applies them.

What counts as speech is decided elsewhere (tokens, or a voice activity detector); here are only frames of
yes and no.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class EndpointingOptions(BaseModel):
    """Riva's ``EndpointingConfig`` under its own names and defaults, and what this project adds.

    Histories are looked at frame by frame; a threshold is the share of a history's frames, in 0..1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_history_ms: int = Field(default=300, gt=0)
    """The window in which speech is looked for."""
    start_threshold: float = Field(default=0.2, ge=0, le=1)
    """An utterance begins when at least this share of the window is speech (0: any speech)."""
    stop_history_ms: int = Field(default=800, gt=0)
    """The window in which silence is looked for."""
    stop_threshold: float = Field(default=0.98, ge=0, le=1)
    """An utterance ends when at least this share of the window is not speech (0: any silence)."""
    stop_history_eou_ms: int | None = Field(default=None, gt=0)
    """A shorter window after which the partial result is marked stable (stability 1); None: no such mark."""
    stop_threshold_eou: float | None = Field(default=None, ge=0, le=1)
    """The share of that window; None: ``stop_threshold``."""
    speech_from: Literal["tokens", "vad"] = "tokens"
    """What counts as speech: frames inside a token's span, or a voice activity detector's opinion."""
    vad_onset: float = Field(default=0.5, ge=0, le=1)
    """With ``vad``: after silence, a frame is speech from this probability on (Silero's own default)."""
    vad_offset: float = Field(default=0.35, ge=0, le=1)
    """With ``vad``: after speech, a frame is silence below this probability."""
    max_utterance_s: float = Field(default=30.0, ge=1, le=120)
    """An utterance that lasts longer is ended at the last word boundary."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A change in the state of an utterance.

    Attributes:
        frame: the frame, counted from the first of the stream, whose arrival decided it.
        kind: ``start``: an utterance began; ``eou``: it seems to be over, so its partial result is
            stable unless speech comes again; ``stop``: it is over.
    """

    frame: int
    kind: Literal["start", "eou", "stop"]


class _Window:
    """A history: how many frames it spans, and how many of them must be of the kind looked for.

    A history that is no multiple of the frame is rounded up to whole frames.
    """

    __slots__ = ("frames", "mask", "needed")

    def __init__(self, history_ms: int, threshold: float, frame_ms: int) -> None:
        self.frames = -(-history_ms // frame_ms)
        self.mask = (1 << self.frames) - 1
        # As a decimal fraction: in binary 0.1 x 30 comes out above 3, and a fourth frame would be asked for.
        self.needed = max(1, ceil(Fraction(repr(threshold)) * self.frames))


class Endpointer:
    """Finds where the utterances of one stream begin and end.

    The rules, after Riva's:

    - Outside an utterance: it begins (``start``) with the frame that brings the speech in the last
      ``start_history`` to ``start_threshold``.
    - Inside: it ends (``stop``) with the frame that brings the silence in the last ``stop_history`` to
      ``stop_threshold``. With ``stop_history_eou`` set, ``eou`` tells that the silence in that shorter
      window has reached ``stop_threshold_eou``; a frame of speech takes it back (`stable`).
    - A window reaches back to the last ``start`` or ``stop`` and no further: silence before an utterance
      cannot end it, and speech of an ended one cannot begin the next.

    The result depends on the frames alone, not on how they are cut into pushes.
    """

    __slots__ = (
        "_eou",
        "_frame",
        "_recent",
        "_recent_mask",
        "_silent",
        "_spoken",
        "_start",
        "_stop",
        "_wide",
        "in_utterance",
        "stable",
    )

    in_utterance: bool
    """Whether an utterance has begun and not ended."""
    stable: bool
    """Whether an ``eou`` stands: no speech has come since."""

    def __init__(self, options: EndpointingOptions, frame_ms: int) -> None:
        """Start at frame 0, outside an utterance.

        Args:
            options: histories and thresholds. ``speech_from`` and ``max_utterance_s`` are for the caller;
                the latter is only how far `force` can go back.
            frame_ms: length of a frame, 80 for a FastConformer with eightfold subsampling.
        """
        self._start = _Window(options.start_history_ms, options.start_threshold, frame_ms)
        self._stop = _Window(options.stop_history_ms, options.stop_threshold, frame_ms)
        self._eou: _Window | None = None
        if options.stop_history_eou_ms is not None:
            threshold = options.stop_threshold_eou
            threshold = options.stop_threshold if threshold is None else threshold
            self._eou = _Window(options.stop_history_eou_ms, threshold, frame_ms)
        self._wide = self._stop.mask if self._eou is None else max(self._stop.mask, self._eou.mask)
        self._recent_mask = (1 << ceil(options.max_utterance_s * 1000 / frame_ms)) - 1
        self.reset(0)

    def reset(self, frame: int) -> None:
        """Forget everything; the next frame to come is number ``frame``."""
        self._frame = frame
        self._recent = 0
        self._clear(in_utterance=False)

    def push(self, speech: NDArray[np.bool_]) -> list[Endpoint]:
        """Take the next frames and say what they changed.

        Args:
            speech: [n] whether each frame is speech; n may be 0.

        Returns:
            In order of frames, at most one for a frame (a ``stop`` replaces the ``eou`` of its frame).
        """
        found: list[Endpoint] = []
        for spoken in speech.tolist():
            self._recent = (self._recent << 1 | spoken) & self._recent_mask
            self._take(spoken, found)
        return found

    def force(self, frame: int) -> list[Endpoint]:
        """End the utterance now, in front of ``frame``; later frames belong to the next one.

        Args:
            frame: the first frame after the utterance, at most the number of frames pushed so far. The
                frames from there on are looked at again, as the beginning of the next utterance.

        Returns:
            A ``stop`` with ``frame`` where an utterance was open, then what the frames after it changed.

        Raises:
            ValueError: ``frame`` has not been pushed yet, so that it cannot be behind the utterance.
        """
        if frame > self._frame:
            raise ValueError(f"cannot end an utterance at frame {frame}: {self._frame} frames are known")
        found = [Endpoint(frame, "stop")] if self.in_utterance else []
        self._clear(in_utterance=False)
        again = min(self._frame - frame, self._recent_mask.bit_length())
        self._frame -= again
        for behind in range(again - 1, -1, -1):
            self._take(self._recent >> behind & 1, found)
        return found

    def _clear(self, *, in_utterance: bool) -> None:
        # The windows are bits, the newest lowest: shifting and counting bits costs a fraction of what a ring
        # of booleans with running sums does, and hundreds of streams come by several times a second.
        self._spoken = 0
        self._silent = 0
        self.in_utterance = in_utterance
        self.stable = False

    def _take(self, spoken: int, found: list[Endpoint]) -> None:
        frame = self._frame
        self._frame = frame + 1
        if not self.in_utterance:
            window = self._start
            self._spoken = (self._spoken << 1 | spoken) & window.mask
            if spoken and self._spoken.bit_count() >= window.needed:
                self._clear(in_utterance=True)
                found.append(Endpoint(frame, "start"))
            return
        self._silent = silent = (self._silent << 1 | (not spoken)) & self._wide
        if spoken:
            self.stable = False
            return
        window = self._stop
        if (silent & window.mask).bit_count() >= window.needed:
            self._clear(in_utterance=False)
            found.append(Endpoint(frame, "stop"))
            return
        eou = self._eou
        if eou is not None and not self.stable and (silent & eou.mask).bit_count() >= eou.needed:
            self.stable = True
            found.append(Endpoint(frame, "eou"))
