"""The events that the server sends, as both protocols spell them, and errors as one of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

import grpc

from orchestrator.errors import (
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    RequestTimeoutError,
    ServerUnavailableError,
    SpeechError,
    StreamLostError,
)
from orchestrator.gateway.http.errors import as_api_error, error_type
from orchestrator.gateway.riva.errors import RpcError

Event = dict[str, Any]

TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"
POLICY_VIOLATION: Final = 1008
SERVER_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013
"""Close codes (RFC 6455, section 7.4.1, and the IANA registry)."""

_LONGEST_ID: Final = 512
_LATER: Final = (OverloadedError, ModelNotReadyError)
_AUDIO_PARAM: Final = "audio"


class EventError(SpeechError):
    """An event of the client that is refused; never leaves this package.

    Attributes:
        code: a word for programs.
        param: the field at fault.
        status: the HTTP status that it would have.
    """

    def __init__(
        self, message: str, code: str = "invalid_value", param: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.status = status


def new_id(kind: str) -> str:
    """A new identifier, ``kind_...``."""
    return f"{kind}_{uuid.uuid4().hex}"


def event(kind: str, **fields: Any) -> Event:
    """An event of the server."""
    return {"event_id": new_id("event"), "type": kind, **fields}


def text_of(event: Mapping[str, Any]) -> str:
    """What is sent of it; ASCII, as what a caller wrote may be no text that UTF-8 knows."""
    return json.dumps(event, separators=(",", ":"))


def told(error: SpeechError) -> EventError:
    """What ``error`` is to a client of the WebSocket."""
    if isinstance(error, EventError):
        return error
    if isinstance(error, RpcError):
        unable = error.code is grpc.StatusCode.UNIMPLEMENTED
        field = error.message.partition(":")[0]
        return EventError(error.message, "unsupported_parameter" if unable else "invalid_value", field)
    answer = as_api_error(error)
    param = _AUDIO_PARAM if answer.param == "file" else answer.param
    return EventError(answer.message, answer.code or "internal_error", param, answer.status)


def error_event(error: EventError, caused_by: str | None = None) -> Event:
    """The event that tells of ``error``; ``caused_by`` is the ``event_id`` of the client's."""
    return event(
        "error",
        error={
            "type": error_type(error.status),
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "event_id": None if caused_by is None else caused_by[:_LONGEST_ID],
        },
    )


def close_code(error: SpeechError) -> int:
    """How a connection ends that cannot go on for ``error``."""
    if isinstance(error, _LATER) or (isinstance(error, ModelNotFoundError) and error.model is None):
        return TRY_AGAIN_LATER
    if isinstance(error, RequestTimeoutError | ServerUnavailableError | StreamLostError):
        return SERVER_ERROR
    return POLICY_VIOLATION if told(error).status < 500 else SERVER_ERROR
