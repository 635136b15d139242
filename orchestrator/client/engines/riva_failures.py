"""What a failed call to a Riva server means: one of the project's errors, and whether to try again."""

from __future__ import annotations

from typing import Final

import grpc

from orchestrator.client.engines.riva_messages import ENGINE
from orchestrator.client.failures import Call, Failure
from orchestrator.engines.checks import reason_of
from orchestrator.errors import (
    AccessDeniedError,
    InvalidRequestError,
    MessageTooLargeError,
    ModelNotFoundError,
    OverloadedError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    SpeechError,
)

_CONNECTION: Final = ("Stream removed", "GOAWAY", "RST_STREAM", "Socket closed")
_NO_MODEL: Final = ("Unavailable model", "model:", "No model", "model not found")
"""How NVIDIA's servers and this project's gateway say that they have no model for a request."""
_ADDRESS: Final = "check riva.url, and whether the server runs and is ready."


def from_status(code: grpc.StatusCode, details: str | None, call: Call) -> Failure:
    """The meaning of a gRPC status that a call came back with."""
    text = reason_of(Exception(details or code.name))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(timed_out(call))
    if code is grpc.StatusCode.UNAVAILABLE or code is grpc.StatusCode.CANCELLED:
        return Failure(unavailable(call, text), transient=True)
    if any(mark in text for mark in _CONNECTION):
        return Failure(unavailable(call, text), transient=True)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return Failure(too_large(call, text))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Failure(
            _error(OverloadedError, call, f"has no room for more work: {text}", "try again later."),
            transient=True,
        )
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        fix = "set the server's key in riva.metadata, such as authorization."
        return Failure(_error(AccessDeniedError, call, f"does not accept the key: {text}", fix))
    if code is grpc.StatusCode.NOT_FOUND or any(mark in text for mark in _NO_MODEL):
        fix = "leave riva.model empty to take what the server lists, or name one of those."
        return Failure(_error(ModelNotFoundError, call, f"has no model for this: {text}", fix))
    if code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
    ):
        fix = "ask without what it cannot do, or check that riva.url is the address of a Riva server."
        return Failure(_error(InvalidRequestError, call, f"rejects the request: {text}", fix))
    return Failure(_error(RemoteInferenceError, call, f"failed: {text}", "see the server's log."))


def unavailable(call: Call, reason: str) -> ServerUnavailableError:
    """Nothing answers at the address, or the connection broke."""
    return ServerUnavailableError(
        f"The Riva server at {call.host} is not there, or went away: {reason}",
        fix=_ADDRESS,
        host=call.host,
        model=call.model,
    )


def timed_out(call: Call) -> RequestTimeoutError:
    """No answer within the limit."""
    limit = "in time" if call.limit_s is None else f"within {call.limit_s:.3g} s"
    return RequestTimeoutError(
        f"The Riva server at {call.host} did not answer {limit}.",
        fix="give it more time (timeout, client.timeout_s).",
        host=call.host,
        model=call.model,
    )


def too_large(call: Call, reason: str) -> MessageTooLargeError:
    """The request does not fit into one message."""
    return MessageTooLargeError(
        f"The Riva server at {call.host} takes no message of this size: {reason}",
        fix="lower riva.window_s, set riva.max_message_bytes to what it takes, or ask without speakers.",
        host=call.host,
        model=call.model,
    )


def _error(kind: type[SpeechError], call: Call, what: str, fix: str) -> SpeechError:
    return kind(f"The Riva server at {call.host} {what}", fix=fix, host=call.host, model=call.model or ENGINE)
