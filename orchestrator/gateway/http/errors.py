"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``, and their status codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi.responses import JSONResponse

from orchestrator.errors import (
    AccessDeniedError,
    AudioDecodeError,
    AudioEmptyError,
    AudioError,
    AudioTooLongError,
    AudioValueError,
    ConfigurationError,
    DiskFullError,
    InvalidRequestError,
    MessageTooLargeError,
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    SpeechError,
    StreamLostError,
    UnsupportedLanguageError,
)

CLIENT_CLOSED: Final = 499
"""nginx's status for a client that went away; only logs and metrics see it."""
CLIENT_GONE: Final = "client_closed"
"""Its code there."""

_KINDS: Final[tuple[tuple[type[SpeechError], int, str | None, str], ...]] = (
    (AudioTooLongError, 413, "file", "audio_too_long"),
    (AudioEmptyError, 400, "file", "audio_empty"),
    (AudioValueError, 400, "file", "invalid_audio"),
    (AudioDecodeError, 400, "file", "invalid_audio"),
    (AudioError, 400, "file", "invalid_audio"),
    (UnsupportedLanguageError, 400, "language", "unsupported_language"),
    (ConfigurationError, 400, None, "invalid_value"),
    (ModelNotReadyError, 503, None, "model_not_ready"),
    (ServerUnavailableError, 503, None, "server_unavailable"),
    (StreamLostError, 503, None, "server_unavailable"),
    (RequestTimeoutError, 504, None, "timeout"),
    (MessageTooLargeError, 413, "file", "audio_too_long"),
    (OverloadedError, 429, None, "overloaded"),
    (InvalidRequestError, 502, None, "upstream_rejected"),
    (AccessDeniedError, 502, None, "upstream_rejected"),
    (RemoteInferenceError, 502, None, "upstream_failed"),
    (DiskFullError, 503, None, "no_space"),
)
"""Class, status, field and code; the first that fits counts."""
_RETRIED: Final = (429, 503)
_OPERATOR: Final = 500
"""From here on the fix is the operator's, not the caller's."""


class ApiError(SpeechError):
    """A request that the HTTP side refuses; never leaves this package.

    Attributes:
        status: the HTTP status.
        param: the field at fault.
        code: a word for programs.
        headers: extra headers of the answer.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})


def refuse(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """400 for the field ``param``."""
    return ApiError(message, param=param, code=code)


def as_api_error(error: SpeechError, retry_after_s: int = 1) -> ApiError:
    """What ``error`` is to an HTTP client."""
    if isinstance(error, ApiError):
        return error
    status, param, code = _kind(error)
    message = error.message
    if status < _OPERATOR and error.fix is not None and not isinstance(error, AudioTooLongError):
        message = f"{message} Fix: {error.fix}"
    headers = {"Retry-After": str(retry_after_s)} if status in _RETRIED else None
    return ApiError(message, status=status, param=param, code=code, headers=headers)


def _kind(error: SpeechError) -> tuple[int, str | None, str]:
    if isinstance(error, ModelNotFoundError):
        # Without a name it was not the caller's choice: the server has no recogniser or no diarizer at all.
        return (503, None, "model_not_ready") if error.model is None else (404, "model", "model_not_found")
    for kind, status, param, code in _KINDS:
        if isinstance(error, kind):
            return status, param, code
    return 500, None, "internal_error"


def error_type(status: int) -> str:
    """OpenAI's ``type`` for a status."""
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def body(error: ApiError) -> dict[str, Any]:
    """The answer's JSON."""
    kind = error_type(error.status)
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def response(error: ApiError) -> JSONResponse:
    """The answer."""
    return JSONResponse(body(error), status_code=error.status, headers=error.headers)
