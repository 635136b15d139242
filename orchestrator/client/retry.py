"""How long to wait before trying again: exponential back-off with jitter.

Half of each wait is fixed, so that a restarting server gets its time, and half is drawn at random, so that
clients that lost the same server do not come back all at once ("equal jitter" in M. Brooker, "Exponential
Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from orchestrator.settings import ClientSettings


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failed request is sent again.

    Attributes:
        retries: attempts after the first.
        first_s: bound of the first wait in seconds; each next bound is twice as long.
        longest_s: no bound is longer.
        random: where jitter comes from; a test gives a seeded one.
    """

    retries: int = ClientSettings().retries
    first_s: float = 0.5
    longest_s: float = 8.0
    random: random.Random = field(default_factory=random.Random)

    def wait_s(self, attempt: int) -> float | None:
        """Seconds to wait after failed attempt number ``attempt`` (from 0); None: give up."""
        if attempt >= self.retries:
            return None
        bound: float = min(self.longest_s, self.first_s * 2**attempt)
        return bound * self.random.uniform(0.5, 1.0)
