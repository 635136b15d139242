"""Which engine has a live stream, and which one gets it when that one fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.client.catalog import ModelCard
from orchestrator.client.engines.board import EngineBoard, attempt, may_go_elsewhere
from orchestrator.client.routing import Decision
from orchestrator.errors import SpeechError
from orchestrator.transcript.routing import FailedAttempt, RoutingRecord

logger = logging.getLogger(__name__)


class Handover:
    """One stream's way through the engines that a router chose."""

    def __init__(self, decision: Decision, board: EngineBoard) -> None:
        """Begin with the first engine."""
        self._decision = decision
        self._board = board
        self._card = decision.cards[0]
        self._tried = {self._card.name}
        """Since an engine answered last."""
        self._failed: list[FailedAttempt] = []
        self._first: SpeechError | None = None

    @property
    def card(self) -> ModelCard:
        """The model that has the stream."""
        return self._card

    @property
    def record(self) -> RoutingRecord:
        """The decision, and what became of it so far."""
        return self._decision.record().model_copy(
            update={
                "engine": self._card.engine,
                "model": self._card.name,
                "failed": tuple(self._failed),
            }
        )

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Around each request: the engine's breaker learns from how it ends."""
        permit = self._board.take(self._card.engine, forced=True)
        if permit is None:
            raise ValueError("a forced permit is always given")
        with self._board.watched(self._card.engine, permit):
            yield
        self._tried = {self._card.name}
        self._first = None

    def lost(self, error: SpeechError, *, hopeless: bool) -> bool:
        """Whether another engine takes the stream, after ``error`` of the one that has it.

        It does where asking the same again is ``hopeless``, or its breaker has opened, and there is one whose
        own is closed that has not failed since the stream was heard last.
        """
        self._first = self._first or error
        if not may_go_elsewhere(error) or not (hopeless or not self._board.allows(self._card.engine)):
            return False
        for card in self._decision.cards:
            if card.name not in self._tried and self._board.allows(card.engine):
                self._failed.append(attempt(self._card, error))
                logger.warning("the live stream moves from %s to %s", self._card.name, card.name)
                self._card = card
                self._tried.add(card.name)
                return True
        if not hopeless:
            self._tried = {self._card.name}  # time has passed: the others may have come back
        return False

    def reason(self, error: SpeechError) -> SpeechError:
        """What to raise where nobody could go on: what the first engine said."""
        return self._first if self._first is not None and may_go_elsewhere(error) else error
