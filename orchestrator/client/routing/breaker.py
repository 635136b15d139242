"""Whether an engine that fails is asked again: a circuit breaker, pure and told the time.

Closed, all work goes through. After some failures in a row it opens: for a while nobody asks the engine.
Then it is half open: one request is let through as a probe; its success closes the breaker, its failure
opens it again for twice as long. (M. Nygard, "Release It!", 2nd edition, chapter 5.)

What was begun before the breaker last changed its state says nothing about the engine of now, and changes
nothing when it comes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class State(StrEnum):
    """Of a breaker at a moment."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When a breaker opens, and for how long; times in seconds.

    Attributes:
        failures: in a row, at least 1.
        open_s: for how long it opens at first.
        longest_open_s: no longer than this, however many probes fail.
    """

    failures: int = 3
    open_s: float = 15.0
    longest_open_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to ask the engine once; whoever takes one says how it went.

    Attributes:
        epoch: the breaker's when it was given.
        probe: it is the one request that a half open breaker lets through.
    """

    epoch: int
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Breaker:
    """One engine's breaker; each method that changes something returns a new one.

    Attributes:
        rule: when it opens.
        failures: in a row, while it is closed.
        opened_at: when it opened last; None: it is closed.
        open_s: for how long.
        probing: a probe is under way.
        epoch: goes up with each change between closed and open.
    """

    rule: BreakerRule = BreakerRule()
    failures: int = 0
    opened_at: float | None = None
    open_s: float = 0.0
    probing: bool = False
    epoch: int = 0

    def state(self, now: float) -> State:
        """What it is at ``now``, of the clock that all methods are told."""
        if self.opened_at is None:
            return State.CLOSED
        return State.OPEN if now < self.opened_at + self.open_s else State.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether `take` gives a permit."""
        state = self.state(now)
        return state is State.CLOSED or (state is State.HALF_OPEN and not self.probing)

    def reopens_in(self, now: float) -> float:
        """Seconds until a probe is let through; 0 where it could be now."""
        return 0.0 if self.opened_at is None else max(0.0, self.opened_at + self.open_s - now)

    def take(self, now: float) -> tuple[Breaker, Permit | None]:
        """Ask for leave; None: another engine should do the work."""
        state = self.state(now)
        if state is State.CLOSED:
            return self, Permit(self.epoch)
        if state is State.HALF_OPEN and not self.probing:
            return replace(self, probing=True), Permit(self.epoch, probe=True)
        return self, None

    def force(self) -> Permit:
        """Leave all the same, where no other engine can do the work; its success closes the breaker."""
        return Permit(self.epoch)

    def succeeded(self, permit: Permit) -> Breaker:
        """The engine did what it was asked."""
        if permit.epoch != self.epoch:
            return self
        if self.opened_at is None:
            return replace(self, failures=0)
        return Breaker(self.rule, epoch=self.epoch + 1)

    def failed(self, permit: Permit, now: float) -> Breaker:
        """The engine failed at ``now``."""
        if permit.epoch != self.epoch:
            return self
        if self.opened_at is not None:
            if not permit.probe:
                return self
            return self._opened(now, min(self.open_s * 2, self.rule.longest_open_s))
        failures = self.failures + 1
        if failures < self.rule.failures:
            return replace(self, failures=failures)
        return self._opened(now, self.rule.open_s)

    def given_up(self, permit: Permit) -> Breaker:
        """The caller gave up, or the request itself was at fault: nothing is known of the engine."""
        if permit.epoch != self.epoch or not permit.probe:
            return self
        return replace(self, probing=False)

    def _opened(self, now: float, open_s: float) -> Breaker:
        return Breaker(self.rule, opened_at=now, open_s=open_s, epoch=self.epoch + 1)
