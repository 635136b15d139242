"""Server-sent events (WHATWG HTML, 9.2): a stream that begins when there is something to say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator.errors import SpeechError
from orchestrator.gateway.http.errors import as_api_error, body
from orchestrator.gateway.http.work import KEEP_ALIVE_S, ClientGoneError, Work
from orchestrator.transcript.models import Transcript

MEDIA_TYPE: Final = "text/event-stream"
_HEADERS: Final = (
    (b"content-type", MEDIA_TYPE.encode() + b"; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
Events = Callable[[Transcript], Iterable[dict[str, Any]]]


def encode(event: dict[str, Any]) -> bytes:
    """One event."""
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


class EventStream(Response):
    """The answer to a streaming request; ends ``work`` when it ends.

    An error after the head has gone out is an event in OpenAI's error shape, the last one.
    """

    def __init__(self, work: Work, events: Events, failed: Callable[[SpeechError], None]) -> None:
        """Stream ``events`` of the work's transcript; ``failed`` is told an error sent as an event."""
        super().__init__()
        self._work = work
        self._events = events
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's scope, as ASGI has it."""
        async with self._work:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            try:
                transcript = await self._work.result(0)
                while transcript is None:
                    await _send(send, b": still at work\n\n")
                    transcript = await self._work.result(KEEP_ALIVE_S)
                for event in self._events(transcript):
                    await _send(send, encode(event))
            except ClientGoneError as error:
                self._failed(error)
                return
            except SpeechError as error:
                self._failed(error)
                await _send(send, encode(body(as_api_error(error))))
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
