"""``/v1/realtime``: how connections begin and end, and what is logged of them."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from fastapi import APIRouter, Request, WebSocket
from starlette.websockets import WebSocketDisconnect

from orchestrator.errors import SpeechError
from orchestrator.gateway.http import openapi
from orchestrator.gateway.http.errors import CLIENT_GONE, ApiError, as_api_error, response
from orchestrator.gateway.http.observe import GIVEN_ID, REQUEST_ID, access_log
from orchestrator.gateway.http.state import Note, Shared, shared_of
from orchestrator.gateway.realtime import messages
from orchestrator.gateway.realtime.access import (
    caller_of,
    check_intent,
    check_origin,
    chosen,
    speaks_openai,
)
from orchestrator.gateway.realtime.conversation import Conversation
from orchestrator.gateway.realtime.events import (
    SERVICE_RESTART,
    EventError,
    close_code,
    error_event,
    text_of,
    told,
)
from orchestrator.gateway.realtime.inbox import Inbox
from orchestrator.gateway.realtime.session import Session
from orchestrator.tracing import Span, span

router: Final = APIRouter()
logger = logging.getLogger(__name__)
PATH: Final = "/v1/realtime"
SESSIONS: Final = f"{PATH}/transcription_sessions"
_METHOD: Final = "websocket"
_LARGEST_SESSION: Final = 64 * 1024
"""Bytes of the body of a session."""
_BODY_LIMIT_S: Final = 10.0
_SESSION_BODY: Final = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {"type": "object", "description": "Fields that differ from the defaults."}
            }
        }
    }
}
_GONE: Final = 1006
"""The close code of a connection that just broke (RFC 6455)."""
_OURS: Final = 500
"""From this HTTP status on the cause is the operator's to mend."""


@router.post(
    SESSIONS,
    summary="The session to begin with, and a secret to connect with",
    responses=openapi.errors(400, 401, 408, 413),
    openapi_extra=_SESSION_BODY,
)
async def transcription_sessions(request: Request) -> dict[str, Any]:
    """NIM's and OpenAI's endpoint; nothing is kept of the session, so clients send it when they connect."""
    shared = shared_of(request)
    session = Session()
    try:
        patch = await _body(request)
        if patch:
            session.update(patch)
    except EventError as error:
        raise ApiError(error.message, status=error.status, param=error.param, code=error.code) from error
    caller = caller_of(request.headers, (), shared.keys, shared.secrets)
    return session.flat(shared.secrets.mint(caller.name) if shared.keys.required else None)


@router.websocket(PATH)
async def realtime(socket: WebSocket) -> None:
    """One client's session."""
    shared: Shared = socket.app.state.shared
    call = _Call(socket, shared, Note())
    started = monotonic()
    status = _GONE
    with span("realtime", kind="server") as current:
        try:
            status = await call.run()
        finally:
            _record(socket, shared, call.note, status, monotonic() - started, current)


@dataclass(slots=True)
class _Call:
    """One connection, from its handshake on."""

    socket: WebSocket
    shared: Shared
    note: Note
    accepted: bool = False

    async def run(self) -> int:
        """Its close code, or the HTTP status that refused it."""
        offered: list[str] = self.socket.scope.get("subprotocols", [])
        try:
            check_intent(self.socket.query_params)
            check_origin(self.socket.headers, self.shared.settings.cors_origins)
            caller = caller_of(self.socket.headers, offered, self.shared.keys, self.shared.secrets)
            with caller.stream(), self.shared.streams.admit():
                await self._accept(offered)
                return await self._talk(offered)
        except (SpeechError, WebSocketDisconnect) as error:
            return await self._refuse(error, offered)

    async def _talk(self, offered: list[str]) -> int:
        """Both sides at once: what the client sends is read while it is answered."""
        inbox = Inbox(self.socket.receive)
        conversation = Conversation(
            inbox,
            self.socket.send_text,
            self.shared.service,
            self.shared.metrics,
            self.note,
            self.shared.settings.stream_idle_timeout_s,
            openai=speaks_openai(self.socket.headers, offered, self.socket.query_params),
            model=self.socket.query_params.get("model", ""),
        )
        answering = asyncio.create_task(self._until_expired(conversation))
        reading = asyncio.create_task(inbox.read())
        try:
            await asyncio.wait((answering, reading), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
            return reading.result()
        finally:
            for task in (answering, reading):
                task.cancel()
            await asyncio.wait((answering, reading))
            for task in (answering, reading):
                if not task.cancelled():
                    task.exception()  # one has been told; the other came too late to be

    async def _until_expired(self, conversation: Conversation) -> None:
        async with self.shared.streams.until_expired():
            await conversation.run()

    async def _accept(self, offered: list[str]) -> None:
        await self.socket.accept(chosen(offered))
        self.accepted = True

    async def _refuse(self, error: SpeechError | WebSocketDisconnect, offered: list[str]) -> int:
        """Tell of ``error`` and close; with an HTTP status where nothing has been accepted yet."""
        if isinstance(error, WebSocketDisconnect):
            self.note.error = CLIENT_GONE
            return _GONE
        event = told(error)
        self.note.error = event.code
        if event.status >= _OURS:
            logger.warning("%s: %s", type(error).__name__, error.message)
        with suppress(WebSocketDisconnect, TimeoutError):  # it may be gone by now
            if not self.accepted and "origin" not in self.socket.headers:
                answer = as_api_error(error, self.shared.streams.retry_after_s)
                await self.socket.send_denial_response(response(answer))
                return answer.status
            streams = self.shared.streams
            stops = streams.expired.is_set() or (streams.draining and not self.accepted)
            if not self.accepted:  # a browser shows its page no status
                await self._accept(offered)
            code = SERVICE_RESTART if stops else close_code(error)
            async with asyncio.timeout(self.shared.settings.stream_idle_timeout_s):
                await self.socket.send_text(text_of(error_event(event)))
                await self.socket.close(code)
            return code
        return _GONE


async def _body(request: Request) -> object:
    """What was sent as JSON; an empty object where nothing was."""
    data = b""
    try:
        async with asyncio.timeout(_BODY_LIMIT_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > _LARGEST_SESSION:
                    raise ApiError("The session is too large.", status=413, code="session_too_large")
    except TimeoutError as error:
        raise ApiError("The body did not arrive in time.", status=408, code="timeout") from error
    try:
        return messages.read(data.decode()) if data.strip() else {}
    except UnicodeDecodeError as error:
        raise EventError("The body is not valid JSON.", "invalid_json") from error


def _record(socket: WebSocket, shared: Shared, note: Note, status: int, took_s: float, current: Span) -> None:
    shared.metrics.requests.labels(_METHOD, PATH, status).inc()
    shared.metrics.latency.labels(PATH).observe(took_s)
    if note.error is not None:
        shared.metrics.errors.labels(note.error).inc()
    given = socket.headers.get(REQUEST_ID, "")
    request_id = given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
    current.note(request_id=request_id, status=status, bytes=note.bytes_in, audio_s=note.audio_s)
    if note.error is not None:
        current.failed(note.error)
    line = {"id": request_id, "method": _METHOD, "route": PATH, "status": status, "s": round(took_s, 4)}
    extra = {"error": note.error, "bytes": note.bytes_in, "audio_s": note.audio_s}
    access_log.info(json.dumps(line | {key: value for key, value in extra.items() if value is not None}))
