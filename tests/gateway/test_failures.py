"""Every failure of an upstream has a status of its own in every protocol."""

from __future__ import annotations

import grpc
import pytest

from orchestrator import errors
from orchestrator.errors import SpeechError
from orchestrator.gateway.http.errors import as_api_error
from orchestrator.gateway.riva.errors import as_rpc_error

STATUSES: dict[str, tuple[int, grpc.StatusCode]] = {
    "ServerUnavailableError": (503, grpc.StatusCode.UNAVAILABLE),
    "RequestTimeoutError": (504, grpc.StatusCode.DEADLINE_EXCEEDED),
    "ModelNotFoundError": (503, grpc.StatusCode.UNAVAILABLE),
    "ModelNotReadyError": (503, grpc.StatusCode.UNAVAILABLE),
    "MessageTooLargeError": (413, grpc.StatusCode.INVALID_ARGUMENT),
    "OverloadedError": (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "StreamLimitError": (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "StreamLostError": (503, grpc.StatusCode.UNAVAILABLE),
    "AccessDeniedError": (502, grpc.StatusCode.INTERNAL),
    "InvalidRequestError": (502, grpc.StatusCode.INTERNAL),
    "RemoteInferenceError": (502, grpc.StatusCode.INTERNAL),
}


def subclasses(kind: type[SpeechError]) -> set[str]:
    found = {kind.__name__} if kind is not errors.ServiceError else set()
    return found.union(*(subclasses(child) for child in kind.__subclasses__()))


def test_there_is_none_without() -> None:
    known = {name for name in subclasses(errors.ServiceError) if hasattr(errors, name)}
    assert known == set(STATUSES)


@pytest.mark.parametrize("name", STATUSES)
def test_statuses(name: str) -> None:
    error: SpeechError = getattr(errors, name)("it happened.", fix="do this.")
    told = as_api_error(error, 7)
    assert (told.status, as_rpc_error(error).code) == STATUSES[name]
    assert told.headers.get("Retry-After") == ("7" if told.status in (429, 503) else None)
