"""How much work is let in, and letting it run out: shared by all protocols."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Final

from orchestrator.errors import OverloadedError, ServerUnavailableError

_LONGEST_RETRY_S: Final = 60
_SMOOTHING: Final = 0.2
"""Weight of the newest job in the running mean of their durations."""


class Admission:
    """At most ``limit`` jobs at once; others are refused at once, so that those let in keep their pace."""

    def __init__(self, limit: int, what: str = "requests") -> None:
        """Let ``limit`` jobs in, which ``what`` names in messages."""
        self._limit = limit
        self._what = what
        self._idle = asyncio.Event()
        self._idle.set()
        self._running = 0
        self._mean_s = 1.0
        self._draining = False
        self._patient: set[asyncio.Timeout] = set()
        self.expired = asyncio.Event()
        """Set when running jobs must end now, with an error that says so."""

    @property
    def running(self) -> int:
        """Jobs at work."""
        return self._running

    @property
    def draining(self) -> bool:
        """True once no new work is taken."""
        return self._draining

    @property
    def retry_after_s(self) -> int:
        """When to try again, in whole seconds: when one of the running jobs should be done."""
        return min(max(math.ceil(self._mean_s / self._limit), 1), _LONGEST_RETRY_S)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold one place for the duration of the block.

        Raises:
            OverloadedError: there is none.
            ServerUnavailableError: the gateway is stopping.
        """
        if self._draining:
            raise stopping()
        if self._running >= self._limit:
            raise OverloadedError(
                f"{self._limit} {self._what} are in work, the most that may be.",
                fix="try again after the time in Retry-After.",
            )
        self._running += 1
        self._idle.clear()
        started = monotonic()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()
            self._mean_s += _SMOOTHING * (monotonic() - started - self._mean_s)

    @asynccontextmanager
    async def until_expired(self) -> AsyncIterator[None]:
        """Cancel the block when running jobs must end.

        Raises:
            ServerUnavailableError: it was cancelled for that.
        """
        try:
            async with asyncio.timeout(0 if self.expired.is_set() else None) as patience:
                self._patient.add(patience)
                try:
                    yield
                finally:
                    self._patient.discard(patience)
        except TimeoutError as error:
            if not self.expired.is_set():  # one from inside the block
                raise
            raise stopping() from error

    async def idle(self) -> None:
        """Wait until no job is at work."""
        await self._idle.wait()

    def drain(self, limit_s: float) -> None:
        """Take no new work; after ``limit_s`` seconds, running jobs must end. Call it on the event loop."""
        if not self._draining:
            self._draining = True
            asyncio.get_running_loop().call_later(limit_s, self._expire)

    def _expire(self) -> None:
        self.expired.set()
        for patience in self._patient:
            patience.reschedule(asyncio.get_running_loop().time())


def stopping() -> ServerUnavailableError:
    """The gateway was told to stop."""
    return ServerUnavailableError(
        "The gateway is stopping and cannot do this any more.", fix="send it again to the one that follows."
    )
