"""From what a stream heard to events, and from its finals to a transcript: pure."""

from __future__ import annotations

from typing import Final

from orchestrator.client.stream.events import Final as FinalEvent
from orchestrator.client.stream.events import Partial, SpeakerChange, StreamEvent
from orchestrator.client.stream.replay import Heard
from orchestrator.diarization import stitch
from orchestrator.transcript.models import Segment, Transcript, Word

_MS_PER_S: Final = 1000


class Captions:
    """Which partials and finals are worth telling: those with words, and what takes back shown words."""

    def __init__(self) -> None:
        self._shown: dict[int, Segment] = {}

    def event(self, heard: Heard) -> Partial | FinalEvent | None:
        """The event for one segment of an answer; None where nobody need know."""
        number, segment = heard.segment.utterance, heard.segment
        shown = self._shown.pop(number, None)
        if segment.words:
            said = _segment(heard)
        elif shown is not None:
            said = Segment(start=shown.start, end=shown.start, text="")
        else:
            return None
        if segment.final:
            return FinalEvent(number, said)
        self._shown[number] = said
        return Partial(number, said, segment.stability)


def _segment(heard: Heard) -> Segment:
    words = tuple(
        Word(
            start=word.start_ms / _MS_PER_S,
            end=word.end_ms / _MS_PER_S,
            text=word.text,
            confidence=word.confidence,
        )
        for word in heard.segment.words
    )
    return Segment(
        start=words[0].start,
        end=max(word.end for word in words),
        text=" ".join(word.text for word in words),
        words=words,
    )


def by_speaker(segment: Segment) -> tuple[Segment, ...]:
    """An utterance as one segment, or as several where several spoke; none where it has no words."""
    if len({word.speaker for word in segment.words}) > 1:
        return stitch.segments(segment.words)
    return (segment,) if segment.words else ()


class Finals:
    """Gathers what is final, with the speakers as they are known by now."""

    def __init__(self) -> None:
        self._segments: dict[int, Segment] = {}

    def add(self, event: StreamEvent) -> None:
        """Take note of a `Final` or a `SpeakerChange`; other events change nothing."""
        if isinstance(event, FinalEvent | SpeakerChange):
            self._segments[event.utterance] = event.segment

    def transcript(
        self,
        *,
        source: str = "",
        duration_s: float = 0.0,
        language: str | None = None,
        engine: str | None = None,
    ) -> Transcript:
        """Everything final so far, by utterance; see `by_speaker`."""
        segments: list[Segment] = []
        for _, segment in sorted(self._segments.items()):
            segments += by_speaker(segment)
        end = max((segment.end for segment in segments), default=0.0)
        return Transcript(
            source=source,
            duration=max(duration_s, end),
            language=language,
            engine=engine,
            segments=tuple(segments),
        )
