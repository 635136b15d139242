"""What the client knows of its engines while it works: breakers and load; and work that goes to the next one
where an engine fails."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import anyio

from orchestrator.client.catalog import ModelCard
from orchestrator.client.routing.breaker import Breaker, BreakerRule, Permit, State
from orchestrator.client.routing.job import Conditions
from orchestrator.errors import (
    AccessDeniedError,
    EngineError,
    InferenceError,
    MissingDependencyError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    ServiceError,
    SpeechError,
)
from orchestrator.settings_engines import RoutingSettings
from orchestrator.transcript.routing import FailedAttempt

logger = logging.getLogger(__name__)

_ILL: Final = (
    AccessDeniedError,
    InferenceError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
)
"""What says that something is wrong with the engine; other errors may be the request's fault."""
Result = TypeVar("Result")


def may_go_elsewhere(error: SpeechError) -> bool:
    """Whether another engine may do what this one could not.

    Not where the client itself was closed (`ServiceError` as such), or the recording cannot be used.
    """
    if type(error) is ServiceError:
        return False
    return isinstance(error, ServiceError | EngineError | MissingDependencyError)


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """What came of a piece of work, who did it, and who failed before."""

    result: Result
    card: ModelCard
    failed: tuple[FailedAttempt, ...] = ()


class EngineBoard:
    """Breakers and load of all engines of one client. Use it on one event loop."""

    def __init__(self, settings: RoutingSettings) -> None:
        """Begin with all breakers closed."""
        self._rule = BreakerRule(settings.failures, settings.open_s, settings.longest_open_s)
        self._breakers: dict[str, Breaker] = {}
        self._held: Counter[str] = Counter()

    def conditions(self, cards: Sequence[ModelCard], away: Mapping[str, str]) -> Conditions:
        """How the engines are now."""
        now = anyio.current_time()
        room = Counter[str]()
        for card in cards:
            room[card.engine] += card.max_streams or card.max_in_flight
        blocked = {name: one.reopens_in(now) for name, one in self._breakers.items() if not one.allows(now)}
        load = {name: held / max(1, room[name]) for name, held in self._held.items()}
        return Conditions(blocked, load, away)

    def states(self) -> dict[str, State]:
        """The breaker's state of each engine that was asked before."""
        now = anyio.current_time()
        return {name: one.state(now) for name, one in sorted(self._breakers.items())}

    async def first(
        self, cards: Sequence[ModelCard], act: Callable[[ModelCard], Awaitable[Result]]
    ) -> Done[Result]:
        """Do a piece of work with the first of ``cards`` (at least one) that can.

        Engines whose breaker is open are asked only where all others failed.

        Raises:
            SpeechError: of the engine that came first, where none could; and at once what is not an engine's.
        """
        failed: list[FailedAttempt] = []
        first: SpeechError | None = None
        left = list(cards)
        for forced in (False, True):
            for card in tuple(left):
                permit = self.take(card.engine, forced=forced)
                if permit is None:
                    continue
                left.remove(card)
                try:
                    with self.watched(card.engine, permit):
                        return Done(await act(card), card, tuple(failed))
                except SpeechError as error:
                    if not may_go_elsewhere(error):
                        raise
                    first = first or error
                    failed.append(attempt(card, error))
        if first is None:
            raise ValueError("no engine to ask")
        raise _with_the_others(first, failed[1:])

    def take(self, engine: str, *, forced: bool = False) -> Permit | None:
        """Leave to ask ``engine`` once; None: its breaker is open. Each permit goes to `watched`."""
        breaker, permit = self._breaker(engine).take(anyio.current_time())
        self._breakers[engine] = breaker
        return breaker.force() if permit is None and forced else permit

    def allows(self, engine: str) -> bool:
        """Whether `take` would give leave without force."""
        return self._breaker(engine).allows(anyio.current_time())

    @contextmanager
    def watched(self, engine: str, permit: Permit) -> Iterator[None]:
        """Count work as the engine's, and learn from how it ends."""
        self._held[engine] += 1
        try:
            yield
            self._breakers[engine] = self._breaker(engine).succeeded(permit)
        except SpeechError as error:
            self._failed(engine, permit, error)
            raise
        except BaseException:  # cancelled, mostly
            self._breakers[engine] = self._breaker(engine).given_up(permit)
            raise
        finally:
            self._held[engine] -= 1

    def _failed(self, engine: str, permit: Permit, error: SpeechError) -> None:
        now = anyio.current_time()
        before = self._breaker(engine)
        after = before.failed(permit, now) if isinstance(error, _ILL) else before.given_up(permit)
        self._breakers[engine] = after
        if after.epoch != before.epoch:
            logger.warning("the engine %s is left alone for %.0f s: %s", engine, after.open_s, error)

    def _breaker(self, engine: str) -> Breaker:
        return self._breakers.setdefault(engine, Breaker(self._rule))


def attempt(card: ModelCard, error: SpeechError) -> FailedAttempt:
    """How an engine failed, for the record."""
    logger.info("%s failed: %s", card.name, error)
    return FailedAttempt(engine=card.engine, error=type(error).__name__, message=error.message)


def _with_the_others(error: SpeechError, others: Sequence[FailedAttempt]) -> SpeechError:
    if not others:
        return error
    also = "; ".join(f"{one.engine}: {one.message}" for one in others)
    whole = type(error)(
        f"{error.message} The engines after it failed too: {also}",
        fix=error.fix,
        host=error.host,
        model=error.model,
        path=error.path,
    )
    whole.__cause__ = error
    return whole
