"""Connections that take their time: how long a request's head may take to arrive."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_h11(head_timeout_s: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1, which closes a connection whose next request does not come.

    uvicorn bounds the pause between two requests, but neither the first one nor how slowly a head arrives,
    nor the body of a request that was answered before it came. Each of them gets ``head_timeout_s`` here.
    """

    class PatientH11(H11Protocol):
        _limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start the clock where the next thing to come is a head, and stop it where one has come."""
            answered = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
            if self.conn.their_state is not h11.IDLE and not answered:
                self._forget()
            elif self._limit is None:
                self._limit = self.loop.call_later(head_timeout_s, self.transport.abort)

        def _forget(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

    return PatientH11
