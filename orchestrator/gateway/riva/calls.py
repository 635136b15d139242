"""What goes around every call: keys, statuses, the log and the metrics."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import grpc

from orchestrator.errors import SpeechError
from orchestrator.gateway.keys import ApiKeys
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.riva.errors import RpcError, as_rpc_error
from orchestrator.tracing import Span, span

access_log = logging.getLogger("orchestrator.gateway.access")
logger = logging.getLogger(__name__)

_METHOD: Final = "grpc"
_MAX_DETAILS: Final = 1000
"""Characters of a status's message: it travels in a header."""
_OURS: Final = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
"""Statuses whose cause is the operator's to mend."""
_OPEN_SERVICES: Final = ("/grpc.health.v1.Health/",)
"""Answered without a key: load balancers have none."""
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


@dataclass(slots=True)
class Note:
    """What the log and the metrics say of a call.

    Attributes:
        status: the name of its gRPC status.
        request_id: the caller's, where it is one that a log can hold.
        error: the class of the error it ended in.
        bytes_in: of audio.
        audio_s: its duration in seconds.
        work_s: how long the transcription took, in seconds.
    """

    status: str = grpc.StatusCode.CANCELLED.name
    request_id: str = ""
    error: str | None = None
    bytes_in: int = 0
    audio_s: float = 0.0
    work_s: float | None = None


class Calls:
    """Runs calls: errors become statuses, and each call one line of log without anything that was said."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics

    @contextmanager
    def noted(self, route: str) -> Iterator[Note]:
        """Note one call of the method ``route``."""
        note = Note()
        started = monotonic()
        with span(f"riva {route}", kind="server") as current:
            try:
                yield note
            finally:
                self._record(route, note, monotonic() - started, current)

    async def answered(self, note: Note, context: Any, work: Awaitable[Any]) -> Any:
        """What ``work`` gives; its errors end the call with their status."""
        try:
            result = await work
        except SpeechError as error:
            told = as_rpc_error(error)
            note.status, note.error = told.code.name, type(error).__name__
            if told.code in _OURS:
                logger.warning("%s: %s", type(error).__name__, error.message)
            await context.abort(told.code, told.message[:_MAX_DETAILS])
        note.status = grpc.StatusCode.OK.name
        return result

    def _record(self, route: str, note: Note, took_s: float, current: Span) -> None:
        self._metrics.requests.labels(_METHOD, route, note.status).inc()
        self._metrics.latency.labels(route).observe(took_s)
        if note.error is not None:
            self._metrics.errors.labels(note.error).inc()
        request_id = note.request_id if _GIVEN_ID.fullmatch(note.request_id) else uuid.uuid4().hex
        current.note(request_id=request_id, status=note.status, bytes=note.bytes_in, audio_s=note.audio_s)
        if note.error is not None:
            current.failed(note.error)
        line = {
            "id": request_id,
            "method": _METHOD,
            "route": route,
            "status": note.status,
            "s": round(took_s, 4),
        }
        if note.error is not None:
            line["error"] = note.error
        if note.bytes_in:
            line |= {"bytes": note.bytes_in, "audio_s": round(note.audio_s, 3)}
        if note.work_s is not None and note.audio_s:
            line["real_time_factor"] = round(note.work_s / note.audio_s, 4)
        access_log.info(json.dumps(line))


class Authenticate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses callers without a key, where keys are configured, before anything of a message is read."""

    def __init__(self, keys: ApiKeys, calls: Calls) -> None:
        self._keys = keys
        self._calls = calls

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        if handler is None or not self._keys.required:
            return handler
        if handler_call_details.method.startswith(_OPEN_SERVICES):
            return handler
        if self._keys.caller(shown_key(handler_call_details.invocation_metadata)) is not None:
            return handler
        return _refusing(handler, self._refuse)

    async def _refuse(self, _: Any, context: Any) -> None:
        error = RpcError(
            "A valid API key is needed: send it as the metadata 'authorization: Bearer KEY'.",
            grpc.StatusCode.UNAUTHENTICATED,
        )
        with self._calls.noted("unauthenticated") as note:
            note.status, note.error = error.code.name, type(error).__name__
            await context.abort(error.code, error.message)


def shown_key(metadata: Any) -> bytes | None:
    """The key in a call's metadata; None where there is none."""
    for name, value in metadata or ():
        if name == "authorization":
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            scheme, _, key = text.partition(" ")
            return key.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else None
    return None


def _refusing(handler: Any, refuse: Callable[[Any, Any], Awaitable[None]]) -> Any:
    """A handler of the same kind as ``handler`` that does nothing but refuse."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(refuse)
