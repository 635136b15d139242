"""What a failed call to Triton means: one of the project's errors, and whether trying again can help.

Triton says what happened in a gRPC status code and one line of text; the lines matched here are those of
Triton 2.51. Errors that the project's own models raise carry their class in that line
(`orchestrator.backend.faults`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc

from orchestrator.backend import faults
from orchestrator.errors import (
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
)

_MAX_DETAILS: Final = 300
"""Characters kept of a server's own words; its Python tracebacks run to pages."""


@dataclass(frozen=True, slots=True)
class Call:
    """Which request of which server failed.

    Attributes:
        host: ``host:port``.
        model: the model asked, None for questions about the server.
        version: the version asked for, empty for any.
        limit_s: the call's time limit in seconds.
    """

    host: str
    model: str | None = None
    version: str = ""
    limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """``error`` to raise; ``transient`` where the same request may succeed a moment later."""

    error: SpeechError
    transient: bool = False


def from_status(code: grpc.StatusCode, details: str | None, call: Call) -> Failure:
    """The meaning of a gRPC status that a call came back with."""
    text = details or ""
    if (told := faults.decode(text, host=call.host, model=call.model)) is not None:
        return Failure(told)
    model = call.model or "server"
    if "must specify the START flag" in text:
        return Failure(_lost(call))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(timed_out(call))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return Failure(too_large(call, f"{call.host} refuses a message of this size: {_short(text)}"))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Failure(_overloaded(call, text))
    if "restricted, expecting header" in text:
        error = InvalidRequestError(
            f"{call.host} keeps this protocol for callers that know its secret: {_short(text)}",
            fix="pass the header and the secret to the client as metadata.",
            host=call.host,
        )
        return Failure(error)
    if code is grpc.StatusCode.UNAVAILABLE:
        return _from_unavailable(text, call)
    if "has no available versions" in text or "not at ready state" in text:
        return Failure(_not_ready(call))
    if code is grpc.StatusCode.NOT_FOUND:
        return Failure(_not_found(call, text))
    if code is grpc.StatusCode.UNIMPLEMENTED:
        error = InvalidRequestError(
            f"{call.host} is a gRPC server but does not serve Triton's protocol: {_short(text)}",
            fix="check the address: the client needs Triton's gRPC port (8001 unless it was changed).",
            host=call.host,
        )
        return Failure(error)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        error = InvalidRequestError(
            f"{call.host} rejects the request to {model}: {_short(text)}",
            fix="use a client and a release of the same version of spark-speech.",
            host=call.host,
            model=call.model,
        )
        return Failure(error)
    if code is grpc.StatusCode.CANCELLED or "Stream removed" in text or "GOAWAY" in text:
        return Failure(unavailable(call, text or "the connection was closed"), transient=True)
    return Failure(_model_failed(call, text or code.name))


def _from_unavailable(text: str, call: Call) -> Failure:
    if "maximum queue size" in text or "timeout expired" in text:
        return Failure(_overloaded(call, text), transient=True)
    if "ready state" in text or "no available versions" in text:
        return Failure(_not_ready(call), transient=True)
    return Failure(unavailable(call, text), transient=True)


def unavailable(call: Call, reason: str) -> ServerUnavailableError:
    """Nothing answers at the address, or the connection broke."""
    return ServerUnavailableError(
        f"The server at {call.host} is not there, or went away: {_short(reason)}",
        fix="start it with `spark-speech up`, or give the address of one that runs (--url, client.url).",
        host=call.host,
        model=call.model,
    )


def timed_out(call: Call) -> RequestTimeoutError:
    """No answer within the limit."""
    limit = "in time" if call.limit_s is None else f"within {call.limit_s:.3g} s"
    return RequestTimeoutError(
        f"{call.model or 'The server'} at {call.host} did not answer {limit}.",
        fix="give it more time (timeout, client.timeout_s), or look at its load with `spark-speech status`.",
        host=call.host,
        model=call.model,
    )


def too_large(call: Call, message: str) -> MessageTooLargeError:
    """The request does not fit into one message."""
    return MessageTooLargeError(
        message,
        fix="send less audio at once: a shorter recording, or diarize=False, which is sent in short windows.",
        host=call.host,
        model=call.model,
    )


def _overloaded(call: Call, text: str) -> OverloadedError:
    return OverloadedError(
        f"{call.host} has no room for more work: {_short(text)}",
        fix="try again later, or lower client.max_concurrency.",
        host=call.host,
        model=call.model,
    )


def _not_ready(call: Call) -> ModelNotReadyError:
    return ModelNotReadyError(
        f"{call.host} knows the model {call.model} but has not loaded it.",
        fix="wait until it is loaded, or see why it failed with `spark-speech status`.",
        host=call.host,
        model=call.model,
    )


def _lost(call: Call) -> StreamLostError:
    return StreamLostError(
        f"{call.host} no longer knows this stream of {call.model}.",
        fix="open it again; the client library does so by itself and sends what was not final.",
        host=call.host,
        model=call.model,
    )


def _not_found(call: Call, text: str) -> ModelNotFoundError:
    if call.version and f"version {call.version} is not found" in text:
        return ModelNotFoundError(
            f"{call.host} has no version {call.version} of the model {call.model}.",
            fix="leave the version out to get the newest, or see what there is with `spark-speech status`.",
            host=call.host,
            model=call.model,
        )
    return ModelNotFoundError(
        f"{call.host} has no model {call.model}.",
        fix="see what there is with `spark-speech status`; `spark-speech build` and `up` add models.",
        host=call.host,
        model=call.model,
    )


def _model_failed(call: Call, text: str) -> RemoteInferenceError:
    dead = "is not healthy" in text
    return RemoteInferenceError(
        f"{call.model or 'The server'} at {call.host} failed: {_short(text)}",
        fix=(
            "the model's process has died: restart the server (`spark-speech down`, `spark-speech up`)."
            if dead
            else "see the server's log for the reason."
        ),
        host=call.host,
        model=call.model,
    )


def _short(text: str) -> str:
    """The first line of a server's message, without a Python traceback behind it."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= _MAX_DETAILS else line[: _MAX_DETAILS - 3] + "..."
