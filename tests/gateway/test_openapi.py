"""The OpenAPI document against the application, with requests that schemathesis thinks up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from starlette.testclient import TestClient

from orchestrator.gateway.http.fields import RESPONSE_FORMATS

CHECKS = (
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
)
"""Not whether wrong types are rejected: in a form the number 0 and the text 0 are the same."""
KNOWN_REFUSAL = "/v1/audio/translations"
"""Documented to answer 501, which counts as a server's error otherwise."""


def test_the_document_tells_the_truth(gateway: Any) -> None:
    document = schemathesis.openapi.from_asgi("/openapi.json", gateway.app)
    tried = []
    for found in document.exclude(path=KNOWN_REFUSAL).get_all_operations():
        operation = found.ok()
        tried.append(operation.path)
        for mode in schemathesis.GenerationMode:
            check(operation, mode)
    assert len(tried) == 11
    assert gateway.uploads == []


def check(operation: Any, mode: schemathesis.GenerationMode) -> None:
    """Send what fits the document, or what does not, and look at the answers."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def send(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    try:
        send()
    except Unsatisfiable:  # an operation without parameters takes nothing wrong
        assert mode is schemathesis.GenerationMode.NEGATIVE


def test_every_path_is_in_the_document(http: TestClient) -> None:
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/realtime/transcription_sessions",
        "/v1/health/live",
        "/v1/health/ready",
        "/v1/version",
        "/v1/metadata",
        "/v1/status",
        "/metrics",
        "/v1/metrics",
    }


def test_the_documented_form_is_accepted(http: TestClient, post: Callable[..., Any]) -> None:
    document = http.get("/openapi.json").json()
    operation = document["paths"]["/v1/audio/transcriptions"]["post"]
    fields = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    answers = operation["responses"]
    assert fields["response_format"]["enum"] == list(RESPONSE_FORMATS)
    for form in RESPONSE_FORMATS:
        answer = post({"model": "auto", "response_format": form, "temperature": "0"})
        media_type = answer.headers["content-type"].partition(";")[0]
        assert media_type in answers["200"]["content"]
    more = {"stream": "true", "response_format": "diarized_json", "num_speakers": "2", "language": "en"}
    given = more | {"model": "auto", "chunking_strategy": "auto"}
    answer = post(given)
    assert answer.status_code == 200
    untested = set(fields) - set(given) - {"file", "temperature", "timestamp_granularities[]"}
    assert untested == set()
