"""Measured word times for engines that have none: a server's aligner gets each window with its words.

Nothing is lost where that fails: the times that the engine spread stay, a warning says so, and the transcript
records it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import anyio

from orchestrator.client.catalog import ModelCard
from orchestrator.client.engines.board import EngineBoard
from orchestrator.client.failures import Call, timed_out
from orchestrator.client.transport import SpeechTransport
from orchestrator.contract import SAMPLE_RATE_HZ, Task
from orchestrator.engines.alignment.base import Alignment, AlignmentOptions
from orchestrator.engines.base import Recognition, Samples
from orchestrator.engines.checks import primary_tag
from orchestrator.engines.spread import CONFIDENCE
from orchestrator.errors import InferenceError, ServiceError, SpeechError
from orchestrator.transcript.models import AlignmentRecord, Transcript

logger = logging.getLogger(__name__)


def aligner_of(cards: Sequence[ModelCard]) -> ModelCard | None:
    """The aligner to ask: of those that are ready the one with the lowest rank."""
    able = [card for card in cards if card.ready and card.task is Task.ALIGN]
    return min(able, key=lambda card: (card.rank, card.name), default=None)


class WordTimer:
    """Gives the words of one recording's windows their times."""

    def __init__(
        self, transport: SpeechTransport, board: EngineBoard, aligner: ModelCard | None, limit_s: float
    ) -> None:
        """Prepare.

        Args:
            transport: has the aligner.
            board: for its circuit breaker.
            aligner: None: there is none, which is recorded where one was needed.
            limit_s: for one window, in seconds; what takes longer keeps its estimated times.
        """
        self._transport = transport
        self._board = board
        self._aligner = aligner
        self._limit_s = limit_s
        self._needed = False
        self._failed: str | None = None

    async def timed(self, samples: Samples, recognition: Recognition, *, pcm16: bool) -> Recognition:
        """``recognition`` of ``samples`` with measured times; as it is where it has them or that fails."""
        if not (recognition.times_estimated and recognition.words):
            return recognition
        self._needed = True
        try:
            return _with_times(recognition, await self._align(samples, recognition, pcm16=pcm16))
        except SpeechError as error:
            if type(error) is ServiceError:  # the client was closed
                raise
            if self._failed is None:
                logger.warning("word times stay estimated: %s", error.message)
            self._failed = self._failed or error.message
            return recognition

    async def _align(self, samples: Samples, recognition: Recognition, *, pcm16: bool) -> Alignment:
        card = self._aligner
        if card is None:
            raise InferenceError(
                f"{self._transport.host} has no aligner.",
                fix="add one to the release: spark-speech build --model aligner=embedded",
            )
        language = primary_tag(recognition.language)
        if card.languages and language not in card.languages:
            raise InferenceError(f"{card.name} does not know the language {language!r}.", model=card.name)
        if len(samples) > card.max_window_s * SAMPLE_RATE_HZ:
            raise InferenceError(f"{card.name} takes at most {card.max_window_s:g} s.", model=card.name)
        permit = self._board.take(card.engine)
        if permit is None:
            raise InferenceError(f"{card.name} failed often and is left alone for a while.", model=card.name)
        with self._board.watched(card.engine, permit):
            try:
                with anyio.fail_after(self._limit_s):
                    return await self._transport.align(
                        card.name,
                        samples,
                        [word.text for word in recognition.words],
                        AlignmentOptions(language=language or None),
                        pcm16=pcm16 and card.takes_pcm16,
                    )
            except TimeoutError as error:
                raise timed_out(Call(self._transport.host, card.name, limit_s=self._limit_s)) from error

    def recorded(self, transcript: Transcript) -> Transcript:
        """``transcript`` with a record of what was aligned, if anything had to be."""
        if not self._needed:
            return transcript
        measured = sum(not word.estimated_in(transcript) for word in transcript.words)
        record = AlignmentRecord(
            model=None if self._aligner is None else self._aligner.name,
            words=len(transcript.words),
            measured=measured,
            failed=self._failed,
        )
        return transcript.model_copy(update={"alignment": record})


def _with_times(recognition: Recognition, alignment: Alignment) -> Recognition:
    if not any(times.measured for times in alignment):
        return recognition
    # An engine that says how sure it is of a word knows better than the aligner.
    unsure = all(word.confidence == CONFIDENCE for word in recognition.words)
    words = tuple(
        replace(
            word,
            start_ms=times.start_ms,
            end_ms=times.end_ms,
            confidence=times.confidence if unsure and times.measured else word.confidence,
            estimated=not times.measured,
        )
        for word, times in zip(recognition.words, alignment, strict=True)
    )
    return replace(recognition, words=words, times_estimated=False)
