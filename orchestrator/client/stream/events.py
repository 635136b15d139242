"""What a live stream tells its caller. Times are seconds from the stream's first sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.transcript.models import Segment, Transcript


@dataclass(frozen=True, slots=True)
class Partial:
    """An utterance as far as it is known; the next partial or final of the same number replaces it.

    Attributes:
        utterance: its number in the stream, from 0.
        segment: its words so far; no speaker yet.
        stability: how likely the words will not change, 0..1.
    """

    utterance: int
    segment: Segment
    stability: float


@dataclass(frozen=True, slots=True)
class Final:
    """An utterance whose words will not change.

    Attributes:
        utterance: its number in the stream, from 0, each once and in order.
        segment: its words; ``segment.speaker`` and the words' speakers are known where the stream was asked
            for speakers, else None.
    """

    utterance: int
    segment: Segment


@dataclass(frozen=True, slots=True)
class SpeakerChange:
    """The speakers of an utterance that was final before are now known better; its words are the same."""

    utterance: int
    segment: Segment


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection was lost and is back; nothing that was said is lost.

    Attributes:
        after_s: how long it was away, in seconds.
        resent_s: how much audio was sent again, in seconds.
    """

    after_s: float
    resent_s: float


@dataclass(frozen=True, slots=True)
class Completed:
    """The stream is over: everything that was final, as a transcript."""

    transcript: Transcript


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """All audio there is, as far as it fills steps of the model, has been heard, and what it said was told.

    Only told to those who ask for it. Finals that wait for their speakers may come later.

    Attributes:
        until_s: the audio taken in so far, in seconds.
    """

    until_s: float


StreamEvent = Partial | Final | SpeakerChange | Reconnected | CaughtUp | Completed


def event_dict(event: StreamEvent) -> dict[str, Any]:
    """The event as JSON-ready data: ``event`` names its class in snake case, the rest are its fields."""
    if isinstance(event, Reconnected):
        return {"event": "reconnected", "after_s": event.after_s, "resent_s": event.resent_s}
    if isinstance(event, CaughtUp):
        return {"event": "caught_up", "until_s": event.until_s}
    if isinstance(event, Completed):
        return {"event": "completed", "transcript": event.transcript.model_dump(mode="json")}
    data: dict[str, Any] = {"utterance": event.utterance, "segment": event.segment.model_dump(mode="json")}
    if isinstance(event, Partial):
        return {"event": "partial", **data, "stability": event.stability}
    return {"event": "final" if isinstance(event, Final) else "speaker_change", **data}
