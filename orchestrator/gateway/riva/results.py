"""Transcripts as Riva's messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import fsum
from typing import Final

from riva.client.proto.riva_asr_pb2 import (
    SpeechRecognitionAlternative,
    SpeechRecognitionResult,
    StreamingRecognitionResult,
    WordInfo,
)

from orchestrator.client.stream.events import Final as FinalEvent
from orchestrator.client.stream.events import Partial, StreamEvent
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.gateway.riva.request import Ask
from orchestrator.gateway.riva.text import Writer
from orchestrator.transcript.models import Transcript, Word

_CHANNEL: Final = 1
"""All channels are mixed into the first."""
_MS_PER_S: Final = 1000


class Results:
    """Writes the results of one request or stream; numbers its speakers from 1 as they appear."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._writer = Writer(ask.text)
        self._tags: dict[str, int] = {}

    def offline(self, transcript: Transcript) -> list[SpeechRecognitionResult]:
        """One result an utterance; an empty one where nothing was said: clients take the first unasked.

        Raises:
            RpcError: profanity is to be hidden, and there is no list of the language.
        """
        spoken = list(utterances(transcript.words, self._ask.endpointing)) or [[]]
        return [
            SpeechRecognitionResult(
                alternatives=[self._alternative(words, transcript.language, final=True)],
                channel_tag=_CHANNEL,
                audio_processed=transcript.duration,
            )
            for words in spoken
        ]

    def live(
        self, events: Sequence[StreamEvent], language: str | None, processed_s: float
    ) -> list[StreamingRecognitionResult]:
        """Finals in order, then the latest partial if it is newer; other events say nothing in Riva.

        Args:
            events: what happened.
            language: BCP-47 tag of what is spoken.
            processed_s: the audio taken in so far, in seconds.

        Raises:
            RpcError: profanity is to be hidden, and there is no list of the language.
        """
        told = [event for event in events if isinstance(event, FinalEvent)]
        shown: list[FinalEvent | Partial] = list(told)
        last = next((event for event in reversed(events) if isinstance(event, FinalEvent | Partial)), None)
        if isinstance(last, Partial):
            shown.append(last)
        return [
            StreamingRecognitionResult(
                alternatives=[
                    self._alternative(event.segment.words, language, final=isinstance(event, FinalEvent))
                ],
                is_final=isinstance(event, FinalEvent),
                stability=event.stability if isinstance(event, Partial) else 1.0,
                channel_tag=_CHANNEL,
                audio_processed=processed_s,
            )
            for event in shown
        ]

    def _alternative(
        self, words: Sequence[Word], language: str | None, *, final: bool
    ) -> SpeechRecognitionAlternative:
        written = self._writer.words(words, language)
        # Clients put transcripts one after another as they are: each carries the space behind it.
        text = "".join(f"{word.text} " for word in written)
        mean = fsum(word.confidence for word in written) / len(written) if written else 0.0
        return SpeechRecognitionAlternative(
            transcript=text,
            confidence=mean,
            words=[self._info(word, language) for word in written] if final and self._ask.word_times else [],
            language_code=[] if language is None else [language],
        )

    def _info(self, word: Word, language: str | None) -> WordInfo:
        return WordInfo(
            start_time=round(word.start * _MS_PER_S),
            end_time=round(word.end * _MS_PER_S),
            word=word.text,
            confidence=word.confidence,
            speaker_tag=self._tag(word.speaker),
            language_code=language or "",
        )

    def _tag(self, speaker: str | None) -> int:
        if speaker is None or self._ask.max_speakers is None:
            return 0
        return self._tags.setdefault(speaker, len(self._tags) + 1)


def utterances(words: Sequence[Word], endpointing: EndpointingOptions) -> Iterator[list[Word]]:
    """Cut a recording's words where a live stream would have ended an utterance: at long silences."""
    pause_s = endpointing.stop_history_ms * endpointing.stop_threshold / _MS_PER_S
    current: list[Word] = []
    for word in words:
        if current and word.start - current[-1].end >= pause_s:
            yield current
            current = []
        current.append(word)
    if current:
        yield current
