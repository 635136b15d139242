"""Around every request: its id, one line of log without anything that was said or sent, and the metrics."""

from __future__ import annotations

import json
import logging
import re
import uuid
from time import monotonic
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.gateway.http.errors import CLIENT_CLOSED
from orchestrator.gateway.http.state import NOTE, Note
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.tracing import Span, span

REQUEST_ID: Final = "X-Request-ID"
access_log = logging.getLogger("orchestrator.gateway.access")
GIVEN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
"""A caller's id that a log can hold."""
_UNMATCHED: Final = "unmatched"
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Observe:
    """ASGI middleware; the outermost, so that it sees every answer."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's scope, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        note = Note()
        scope[NOTE] = note
        started = monotonic()
        status = CLIENT_CLOSED

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        carrier = {"traceparent": found} if (found := headers.get("traceparent")) is not None else None
        with span("HTTP", kind="server", carrier=carrier, request_id=request_id) as current:
            try:
                await self._app(scope, receive, sending)
            finally:
                self._record(scope, request_id, status, monotonic() - started, note, current)

    def _record(
        self, scope: Scope, request_id: str, status: int, took_s: float, note: Note, current: Span
    ) -> None:
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.latency.labels(route).observe(took_s)
        current.rename(f"{method} {route}")
        current.note(status=status, bytes=note.bytes_in, audio_s=note.audio_s)
        if note.error is not None:
            self._metrics.errors.labels(note.error).inc()
            current.failed(note.error)
        line = {"id": request_id, "method": method, "route": route, "status": status, "s": round(took_s, 4)}
        extra = {"error": note.error, "bytes": note.bytes_in, "audio_s": note.audio_s}
        if note.work_s is not None and note.audio_s:
            extra["real_time_factor"] = round(note.work_s / note.audio_s, 4)
        line |= {key: value for key, value in extra.items() if value is not None}
        access_log.info(json.dumps(line))
