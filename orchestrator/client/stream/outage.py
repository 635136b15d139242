"""How long a stream that was lost is looked for: pure, told the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.client.retry import RetryPolicy
from orchestrator.client.stream.events import Reconnected
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import (
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    SpeechError,
    StreamLostError,
)

_LOSSES: Final = (
    ServerUnavailableError,
    StreamLostError,
    RequestTimeoutError,
    ModelNotReadyError,
    OverloadedError,
    RemoteInferenceError,
)
"""After these a stream can go on, on a new sequence."""
_FAILURES: Final = 6
"""Times that a server which is there loses the stream at one place. A stream whose audio the model fails on
takes those in the same step along, which get on between its tries; the one at fault does not."""


@dataclass(slots=True)
class _Outage:
    """From the first loss until the server is further than it was."""

    since: float
    sent: int
    attempts: int = 0
    failures: int = 0


class Outages:
    """Decides after each loss whether and when to try again; times in seconds, positions in samples."""

    def __init__(self, *, opening: RetryPolicy, retry: RetryPolicy, limit_s: float) -> None:
        """Set the bounds.

        Args:
            opening: attempts to begin the stream, where the server goes away under its first piece.
            retry: attempts of one outage of a stream that has begun.
            limit_s: time of one such outage in seconds.
        """
        self._opening = opening
        self._retry = retry
        self._limit_s = limit_s
        self._began = False
        self._openings = 0
        self._outage: _Outage | None = None
        self._lost_at: float | None = None

    def wait_s(self, error: SpeechError, now: float, sent: int) -> float:
        """How long to wait before the next try, after ``error`` with ``sent`` samples sent.

        Raises:
            SpeechError: ``error``, where trying again cannot help: the error is of another kind, or there
                were enough tries. A stream that has not begun has lost nothing: it is tried again where a
                request would be, and told at once that the server is full or fails.
        """
        if not self._began:
            return self._until_begun_s(error)
        away = self._outage is not None and isinstance(error, ModelNotFoundError)  # until it is loaded
        if not (away or isinstance(error, _LOSSES)):
            raise error
        if self._outage is None:
            self._outage = _Outage(now, sent)
        outage = self._outage
        outage.failures += isinstance(error, RemoteInferenceError | StreamLostError)
        if self._lost_at is None:
            self._lost_at = now
        wait_s = self._retry.wait_s(outage.attempts)
        if outage.attempts == 0 and isinstance(error, StreamLostError):
            wait_s = None if wait_s is None else 0.0  # the server is there: it forgot an idle stream
        outage.attempts += 1
        if wait_s is None or outage.failures > _FAILURES or now + wait_s - outage.since > self._limit_s:
            raise error
        return wait_s

    def _until_begun_s(self, error: SpeechError) -> float:
        # A server that comes back says "not ready" until its models are loaded.
        loading = self._openings > 0 and isinstance(error, ModelNotReadyError)
        away = loading or isinstance(error, ServerUnavailableError)
        wait_s = self._opening.wait_s(self._openings) if away else None
        if wait_s is None:
            raise error
        self._openings += 1
        return wait_s

    def answered(self, now: float, sent: int, final: int) -> Reconnected | None:
        """The server answered, and has ``sent`` samples now; what to tell if it was away before.

        ``final`` is where the new sequence began.
        """
        self._began = True
        if self._outage is None:
            return None
        told = None
        if self._lost_at is not None:
            resent = max(0, self._outage.sent - final)
            told = Reconnected(now - self._lost_at, resent / SAMPLE_RATE_HZ)
            self._lost_at = None
        if sent > self._outage.sent:
            self._outage = None
        return told
