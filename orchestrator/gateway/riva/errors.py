"""Errors as gRPC statuses."""

from __future__ import annotations

from typing import Final

import grpc

from orchestrator.errors import (
    AudioError,
    AudioTooLongError,
    ConfigurationError,
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

_CODES: Final[tuple[tuple[type[SpeechError], grpc.StatusCode, bool], ...]] = (
    (AudioTooLongError, grpc.StatusCode.INVALID_ARGUMENT, False),
    (AudioError, grpc.StatusCode.INVALID_ARGUMENT, True),
    (UnsupportedLanguageError, grpc.StatusCode.INVALID_ARGUMENT, True),
    (ConfigurationError, grpc.StatusCode.INVALID_ARGUMENT, True),
    (MessageTooLargeError, grpc.StatusCode.INVALID_ARGUMENT, False),
    (ModelNotReadyError, grpc.StatusCode.UNAVAILABLE, False),
    (ServerUnavailableError, grpc.StatusCode.UNAVAILABLE, False),
    (StreamLostError, grpc.StatusCode.UNAVAILABLE, False),
    (RequestTimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED, False),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED, False),
    (InvalidRequestError, grpc.StatusCode.INTERNAL, False),
    (RemoteInferenceError, grpc.StatusCode.INTERNAL, False),
)
"""Class, code, and whether the fix is the caller's to make; the first that fits counts."""


class RpcError(SpeechError):
    """A call that is refused; never leaves this package.

    Attributes:
        code: the gRPC status.
    """

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> None:
        super().__init__(message)
        self.code = code


def refuse(field: str, message: str) -> RpcError:
    """INVALID_ARGUMENT for a field."""
    return RpcError(f"{field}: {message}")


def unable(field: str, message: str) -> RpcError:
    """UNIMPLEMENTED for a field that asks for what cannot be done here."""
    return RpcError(f"{field}: {message}", grpc.StatusCode.UNIMPLEMENTED)


def as_rpc_error(error: SpeechError) -> RpcError:
    """What ``error`` is to a gRPC client."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, ModelNotFoundError):
        # Without a name it was not the caller's choice: the server has no recogniser or no diarizer at all.
        if error.model is None:
            return RpcError(error.message, grpc.StatusCode.UNAVAILABLE)
        return refuse("model", error.message)
    for kind, code, callers in _CODES:
        if isinstance(error, kind):
            fix = f" Fix: {error.fix}" if callers and error.fix else ""
            return RpcError(error.message + fix, code)
    return RpcError(error.message, grpc.StatusCode.INTERNAL)
