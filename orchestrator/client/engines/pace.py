"""How fast requests may be sent to a service that limits them: a token bucket, pure and told the time."""

from __future__ import annotations


class Pace:
    """So many requests a minute, refilled all the time, some of them at once after a pause."""

    def __init__(self, per_minute: float, burst: float | None = None) -> None:
        """Begin with a full bucket of ``burst`` (a sixth of a minute's by default, at least one)."""
        self._per_s = per_minute / 60
        self._burst = max(1.0, per_minute / 6 if burst is None else burst)
        self._free = self._burst
        self._at = 0.0
        self._closed_until = 0.0

    def take(self, now: float) -> float:
        """Reserve one request; how long to wait before it is sent, in seconds.

        ``now`` is of any clock that does not go back; requests that wait keep their order.
        """
        self._free = min(self._burst, self._free + max(0.0, now - self._at) * self._per_s)
        self._at = max(self._at, now)
        self._free -= 1
        wait_s = max(0.0, -self._free / self._per_s)
        return max(wait_s, self._closed_until - now)

    def give_back(self) -> None:
        """A reserved request is not sent."""
        self._free = min(self._burst, self._free + 1)

    def close(self, until: float) -> None:
        """The service asked for quiet: nothing is sent before then."""
        self._closed_until = max(self._closed_until, until)
