"""Which audio of a stream the network hears next, and which of its frames become tokens for good: no torch.

A window is ``left + chunk + right`` encoder frames. Each round moves it on by ``chunk``: the frames of the
chunk are committed; the right context after them is decoded for a partial result only, since it will be heard
again with more audio behind it. Audio is kept in blocks of one encoder frame; frame ``k`` starts with block
``k``. Contexts are whole frames, so the frames of all windows fall on the same grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from orchestrator.engines.base import Samples

SHORTEST: Final = 10
"""Encoder frames that the first window has at least, 0.8 s: features are normalised over the window."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """The window of all streams.

    Attributes:
        left, chunk, right: encoder frames.
        hop: samples of a feature frame.
        subsampling: feature frames of an encoder frame.
    """

    left: int
    chunk: int
    right: int
    hop: int
    subsampling: int

    @property
    def window(self) -> int:
        """Encoder frames of the whole window."""
        return self.left + self.chunk + self.right

    @property
    def block(self) -> int:
        """Samples of an encoder frame."""
        return self.hop * self.subsampling

    def frames(self, samples: int) -> int:
        """Encoder frames that so many samples make; features need two frames to be normalised."""
        features = samples // self.hop
        return -(-features // self.subsampling) if features > 1 else 0


class Round(NamedTuple):
    """One stream's part of one pass of the network.

    Attributes:
        slot: which of the pool's places is the stream's.
        fresh: whether it is the stream's first, so that what is in the slot is of another stream.
        audio: samples that the pool has not got yet; zero or more whole blocks, the last may be incomplete.
        block: number of the first block in ``audio``.
        base: the window's first frame.
        samples: the window's length.
        first: the first frame to commit, counted from the start of the stream.
        commit: how many frames to commit.
        tail: how many frames to decode after these.
        final: whether these are committed too, because nothing that comes later is to change them.
    """

    slot: int
    fresh: bool
    audio: Samples
    block: int
    base: int
    samples: int
    first: int
    commit: int
    tail: int
    final: bool


class Feed:
    """The audio of one stream that the pool has not got yet, and where its window stands."""

    __slots__ = ("_fresh", "_geometry", "_heard", "_kept", "_pending", "_phase", "next", "received", "slot")

    def __init__(self, geometry: Geometry, slot: int) -> None:
        """A stream without audio, in place ``slot`` of the pool."""
        self._geometry = geometry
        # Windows end at `right` plus whole chunks after the first frame, so that each commits a whole chunk.
        self._phase = geometry.right - -(-geometry.right // geometry.chunk) * geometry.chunk
        self._heard = self._phase
        self._kept = 0  # whole blocks that the pool has
        self._pending: Samples = np.zeros(0, dtype=np.float32)  # what comes after these
        self._fresh = True
        self.slot = slot
        self.next = 0
        """The first frame that is not committed."""
        self.received = 0
        """Samples so far."""

    @property
    def heard(self) -> int:
        """Samples that the network has heard."""
        return min(max(self._heard, self.next, 0) * self._geometry.block, self.received)

    def push(self, samples: Samples) -> None:
        """Take the next samples."""
        if samples.size:
            self._pending = np.concatenate((self._pending, samples))
            self.received += samples.size

    def due_after(self, part: Round) -> bool:
        """Whether there will be audio for another round after ``part``, which is not final."""
        end = part.first + part.commit + part.tail
        return self.received >= (end + self._geometry.chunk) * self._geometry.block

    def round(self, *, flush: bool) -> Round | None:
        """What to compute next, or None where nothing is to be: say `done` before asking again.

        Args:
            flush: the audio so far has to be committed to its end.
        """
        geometry = self._geometry
        block = geometry.block
        base = max(0, self.next - geometry.left)
        while True:
            end = self._heard + geometry.chunk
            if self.received < end * block or (flush and self.received == end * block):
                break
            commit = max(0, end - geometry.right - self.next)
            if commit or end - base >= min(geometry.right + geometry.chunk, SHORTEST):
                return Round(
                    slot=self.slot,
                    fresh=self._fresh,
                    audio=self._pending[: (end - self._kept) * block],
                    block=self._kept,
                    base=base,
                    samples=(end - base) * block,
                    first=self.next,
                    commit=commit,
                    tail=end - self.next - commit,
                    final=False,
                )
            self._heard = end  # too little audio for a result that means anything
        samples = self.received - base * block
        left = geometry.frames(samples) - (self.next - base)
        if not flush or left <= 0:
            return None
        commit = min(left, geometry.chunk)
        return Round(
            slot=self.slot,
            fresh=self._fresh,
            audio=self._pending,
            block=self._kept,
            base=base,
            samples=samples,
            first=self.next,
            commit=commit,
            tail=left - commit,
            final=True,
        )

    def done(self, part: Round) -> None:
        """``part`` was computed."""
        block = self._geometry.block
        whole = part.audio.size // block
        self._kept += whole
        self._pending = self._pending[whole * block :]
        self._fresh = False
        if part.final:
            self.next = part.first + part.commit + part.tail
            self._heard = self.next + self._phase
        else:
            self.next = part.first + part.commit
            self._heard = self.next + part.tail
