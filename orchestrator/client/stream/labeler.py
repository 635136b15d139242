"""What names the speakers of a live stream, as the session sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.client.stream.codec import Pcm16
from orchestrator.transcript.models import Segment

Correction = tuple[int, Segment]
"""An utterance's number and its segment with the speakers as they are known now."""


class SpeakerLabeler(Protocol):
    """Names speakers as utterances become final; one object a stream, called by one task, in order."""

    def watch(self, news: Callable[[], None]) -> None:
        """Have ``news`` called whenever `corrections` may have something while no final is being named."""

    def hear(self, start_ms: int, audio: Pcm16) -> None:
        """All audio of the stream, in order; after a lost connection some of it comes again."""

    def ongoing(self, segment: Segment, audio: Callable[[int, int], Pcm16]) -> None:
        """Begin with an utterance that goes on for long: its beginning can be named before it is final.

        Args:
            segment: the partial.
            audio: gives the audio between two times, in ms of the stream.
        """

    def submit(self, utterance: int, segment: Segment, audio: Pcm16) -> None:
        """Begin to name the speakers of an utterance, as soon as it is final.

        Args:
            utterance: its number in the stream, from 0; rising, not necessarily without gaps.
            segment: what was said; times are seconds from the stream's first sample.
            audio: 16-bit at 16 kHz, from ``segment.start`` to ``segment.end``.
        """

    async def final(self, utterance: int) -> Segment:
        """The segment with speakers on itself and its words; its words and times stay as they are.

        Called once for each utterance that was submitted, in order. It answers within a bound from then on,
        without speakers where they are not known in time.

        Raises:
            ServiceError: the diarizer failed; the utterance then goes out without speakers.
        """

    def corrections(self) -> Sequence[Correction]:
        """Utterances that were final before and are known better since; asked after each final."""

    async def finish(self) -> Sequence[Correction]:
        """The last corrections, when the stream is over.

        Raises:
            ServiceError: the diarizer failed; there are no more corrections then.
        """

    async def aclose(self) -> None:
        """Stop what is still under way; also after `finish`, or instead of it."""
