"""The voices of one window of a live stream, in the stream's own time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.diarization.base import Diarization, SpeakerTurn

Spans = tuple[tuple[int, int], ...]
"""Starts and ends in ms of the stream, by start."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker of a window, before anybody knows who it is.

    Attributes:
        unit: ``[D]``, the embedding at length 1; None where the speech was too short to embed.
        turns: in the new part of the window.
        exclusive: the same, with at most one voice at a time.
        context: turns in the part that earlier windows have dealt with.
    """

    unit: NDArray[np.float64] | None
    turns: Spans
    exclusive: Spans
    context: Spans

    @property
    def new_ms(self) -> int:
        """Speech in the new part."""
        return length_ms(self.turns)

    @property
    def speech_ms(self) -> int:
        """Speech in the whole window: what the embedding was made of."""
        return self.new_ms + length_ms(self.context)


def voices_of(found: Diarization, window_ms: int, start_ms: int, end_ms: int) -> tuple[Voice, ...]:
    """The voices of a window, in an order that does not depend on how the diarizer numbered them.

    Args:
        found: times count from the start of the window.
        window_ms: where the window starts in the stream.
        start_ms: where its new part starts.
        end_ms: where it ends.
    """
    voices = []
    for speaker, row in enumerate(np.asarray(found.embeddings, dtype=np.float64)):
        own = [turn for turn in found.turns if turn.speaker == speaker]
        alone = [turn for turn in found.exclusive if turn.speaker == speaker]
        voice = Voice(
            unit=_unit(row),
            turns=_clipped(own, window_ms, start_ms, end_ms),
            exclusive=_clipped(alone, window_ms, start_ms, end_ms),
            context=_clipped(own, window_ms, window_ms, start_ms),
        )
        if voice.turns or voice.context:
            voices.append(voice)
    return tuple(sorted(voices, key=_place))


def length_ms(spans: Spans) -> int:
    """How long the spans are together."""
    return sum(end - start for start, end in spans)


def shared_ms(ones: Spans, others: Iterable[tuple[int, int]]) -> int:
    """How long both are active."""
    return sum(
        max(0, min(end, other_end) - max(start, other_start))
        for other_start, other_end in others
        for start, end in ones
    )


def _place(voice: Voice) -> tuple[bool, Spans, Spans, bytes]:
    """Those with new speech first, by its start; the embedding decides between equal turns."""
    return (not voice.turns, voice.turns, voice.context, b"" if voice.unit is None else voice.unit.tobytes())


def _unit(row: NDArray[np.float64]) -> NDArray[np.float64] | None:
    length = float(np.linalg.norm(row))
    return row / length if np.isfinite(length) and length > 0 else None


def _clipped(turns: Sequence[SpeakerTurn], shift_ms: int, start_ms: int, end_ms: int) -> Spans:
    spans = ((max(start_ms, turn.start_ms + shift_ms), min(end_ms, turn.end_ms + shift_ms)) for turn in turns)
    return tuple(sorted(span for span in spans if span[0] < span[1]))
