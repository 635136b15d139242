from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import srt
import webvtt
from starlette.testclient import TestClient

from orchestrator.errors import (
    AudioDecodeError,
    AudioEmptyError,
    AudioTooLongError,
    AudioValueError,
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
    UnsupportedLanguageError,
)
from orchestrator.gateway.http.observe import access_log
from orchestrator.gateway.service import Job
from orchestrator.transcript.models import Transcript

Post = Callable[..., Any]


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What the access log says."""
    kept: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(json.loads(record.getMessage()))

    handler = Keep()
    access_log.addHandler(handler)
    access_log.setLevel(logging.INFO)
    yield kept
    access_log.removeHandler(handler)


def problem(answer: Any) -> dict[str, Any]:
    """The error of an answer, in OpenAI's shape."""
    assert set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_json(post: Post, gateway: Any, tools: Any) -> None:
    answer = post({"model": "whisper-1", "language": "en"})
    assert answer.status_code == 200
    assert answer.json() == {
        "text": "Good morning. Hello.",
        "usage": {"type": "duration", "seconds": 4.0},
    }
    assert gateway.service.asked == [("meeting.wav", tools.RECORDING, Job(language="en"))]
    assert gateway.uploads == []


def test_text(post: Post) -> None:
    answer = post({"model": "auto", "response_format": "text"})
    assert answer.text == "Good morning. Hello.\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_srt(post: Post, gateway: Any) -> None:
    answer = post({"model": "auto", "response_format": "srt"})
    assert [cue.content for cue in srt.parse(answer.text)] == ["Speaker 1: Good morning.", "Hello."]
    assert answer.headers["content-type"].startswith("application/x-subrip")
    assert gateway.service.job.speakers == "if possible"


def test_vtt(post: Post) -> None:
    answer = post({"model": "auto", "response_format": "vtt"})
    cues = webvtt.from_string(answer.text)
    assert [(cue.voice, cue.text) for cue in cues] == [("Speaker 1", "Good morning."), (None, "Hello.")]
    assert answer.headers["content-type"].startswith("text/vtt")


def test_verbose_json(post: Post) -> None:
    fields = {"model": "auto", "response_format": "verbose_json"}
    answer = post(fields | {"timestamp_granularities[]": ["word", "segment"]}).json()
    assert (answer["language"], answer["duration"], answer["task"]) == ("en", 4.0, "transcribe")
    assert [(part["id"], part["start"], part["end"]) for part in answer["segments"]] == [
        (0, 0.5, 1.5),
        (1, 2.0, 2.6),
    ]
    assert answer["segments"][0]["avg_logprob"] == pytest.approx(-0.3466)  # (ln 0.5 + ln 1) / 2
    assert answer["words"][1] == {"word": "morning.", "start": 1.0, "end": 1.5, "confidence": 1.0}
    assert "words" not in post(fields).json()
    only_words = post(fields | {"timestamp_granularities[]": "word"}).json()
    assert "segments" not in only_words
    assert len(only_words["words"]) == 3


def test_diarized_json(post: Post, gateway: Any) -> None:
    answer = post({"model": "auto", "response_format": "diarized_json", "num_speakers": "2"}).json()
    assert [(part["speaker"], part["text"]) for part in answer["segments"]] == [
        ("Speaker 1", "Good morning."),
        ("unknown", "Hello."),
    ]
    assert answer["segments"][0]["type"] == "transcript.text.segment"
    assert "words" not in answer["segments"][0]
    assert gateway.service.job == Job(speakers="required", num_speakers=2)


def test_diarized_json_with_words(post: Post) -> None:
    fields = {"response_format": "diarized_json", "timestamp_granularities[]": ["word", "segment"]}
    answer = post({"model": "auto"} | fields).json()
    assert answer["language"] == "en"
    assert [[word["word"] for word in part["words"]] for part in answer["segments"]] == [
        ["Good", "morning."],
        ["Hello."],
    ]
    assert answer["segments"][0]["words"][0] == {"word": "Good", "start": 0.5, "end": 0.9, "confidence": 0.5}


def test_silence_is_an_empty_transcript(post: Post, gateway: Any) -> None:
    gateway.service.transcript = Transcript(duration=1.0)
    for form in ("json", "verbose_json", "diarized_json"):
        assert post({"model": "auto", "response_format": form}).json()["text"] == ""
    assert post({"model": "auto", "response_format": "srt"}).text == ""


def events(answer: Any) -> list[dict[str, Any]]:
    blocks = [block for block in answer.text.split("\n\n") if block and not block.startswith(":")]
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def test_a_stream(post: Post, gateway: Any) -> None:
    answer = post({"model": "auto", "stream": "true"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *deltas, done = events(answer)
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert "".join(event["delta"] for event in deltas) == done["text"] == "Good morning. Hello."
    assert done["type"] == "transcript.text.done"
    assert gateway.uploads == []


def test_a_stream_with_speakers(post: Post) -> None:
    kinds = [
        (event["type"].rpartition(".")[2], event.get("speaker"))
        for event in events(post({"model": "auto", "stream": "true", "response_format": "diarized_json"}))
    ]
    assert kinds == [
        ("delta", None),
        ("segment", "Speaker 1"),
        ("delta", None),
        ("segment", "unknown"),
        ("done", None),
    ]


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize(
    ("error", "status", "param", "code"),
    [
        (AudioDecodeError("meeting.wav is not audio.", fix="x."), 400, "file", "invalid_audio"),
        (AudioEmptyError("x"), 400, "file", "audio_empty"),
        (AudioValueError("x"), 400, "file", "invalid_audio"),
        (AudioTooLongError("x"), 413, "file", "audio_too_long"),
        (MessageTooLargeError("x"), 413, "file", "audio_too_long"),
        (UnsupportedLanguageError("x"), 400, "language", "unsupported_language"),
        (ModelNotFoundError("x", model="whisper"), 404, "model", "model_not_found"),
        (ModelNotFoundError("no recogniser"), 503, None, "model_not_ready"),
        (ModelNotReadyError("x"), 503, None, "model_not_ready"),
        (ServerUnavailableError("x"), 503, None, "server_unavailable"),
        (RequestTimeoutError("x"), 504, None, "timeout"),
        (OverloadedError("x"), 429, None, "overloaded"),
        (InvalidRequestError("x"), 502, None, "upstream_rejected"),
        (RemoteInferenceError("x"), 502, None, "upstream_failed"),
        (DiskFullError("x"), 503, None, "no_space"),
        (SpeechError("x"), 500, None, "internal_error"),
    ],
)
def test_errors_of_the_service(
    post: Post, gateway: Any, error: SpeechError, status: int, param: str, code: str, stream: str
) -> None:
    gateway.service.error = error
    answer = post({"model": "auto", "stream": stream})
    found = problem(answer)
    assert (answer.status_code, found["param"], found["code"]) == (status, param, code)
    assert found["message"].startswith(error.message)
    assert ("retry-after" in answer.headers) is (status in (429, 503))
    assert gateway.uploads == []


def test_a_wrong_field_costs_no_transcription(post: Post, gateway: Any) -> None:
    answer = post({"model": "auto", "prompt": "Names: Ada"})
    assert answer.status_code == 400
    assert problem(answer)["param"] == "prompt"
    assert gateway.service.asked == []
    assert gateway.uploads == []


def test_no_recording(http: TestClient, tools: Any, gateway: Any) -> None:
    headers = {"content-type": tools.CONTENT_TYPE}
    answer = http.post(tools.PATH, content=tools.multipart({"model": "auto"}, None), headers=headers)
    assert (answer.status_code, problem(answer)["param"]) == (400, "file")
    assert gateway.uploads == []


def test_another_kind_of_body(http: TestClient, tools: Any) -> None:
    answer = http.post(tools.PATH, json={"model": "auto"})
    assert (answer.status_code, problem(answer)["code"]) == (415, "unsupported_media_type")


def test_a_fault_is_a_500_in_the_same_shape(post: Post, gateway: Any) -> None:
    gateway.service.error = ValueError("secret words")
    answer = post()
    assert (answer.status_code, problem(answer)["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "x-request-id" in answer.headers
    assert gateway.uploads == []


def test_a_large_upload(make: Callable[..., Any], tools: Any) -> None:
    gateway = make(max_upload_bytes=100)
    with TestClient(gateway.app) as http:
        answer = http.post(tools.PATH, data={"model": "auto"}, files={"file": ("a.wav", b"x" * 101)})
    assert (answer.status_code, problem(answer)["code"]) == (413, "file_too_large")
    assert gateway.uploads == []


def test_translations_are_refused(http: TestClient) -> None:
    answer = http.post("/v1/audio/translations", data={"model": "whisper-1"}, files={"file": b"x"})
    assert (answer.status_code, problem(answer)["code"]) == (501, "unsupported_operation")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2", 404), ("DELETE", "/v1/models", 405)])
def test_other_paths_and_methods(http: TestClient, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    problem(answer)
    assert ("allow" in answer.headers) is (status == 405)


def test_models(http: TestClient) -> None:
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["auto", "echo"]
    assert listed["data"][1]["languages"] == ["en", "de"]
    assert http.get("/v1/models/echo").json() == listed["data"][1]
    missing = http.get("/v1/models/asleep")
    assert (missing.status_code, problem(missing)["code"]) == (404, "model_not_found")


def test_health(http: TestClient, gateway: Any) -> None:
    assert http.get("/v1/health/live").json() == {"status": "live"}
    assert http.get("/v1/health/ready").json() == {"status": "ready"}
    gateway.service.unready = ServerUnavailableError("gone")
    assert http.get("/v1/health/live").status_code == 200
    for path in ("/v1/health/ready", "/v1/models", "/v1/metadata"):
        assert http.get(path).status_code == 503


def test_version_and_metadata(http: TestClient) -> None:
    from orchestrator import __version__

    assert http.get("/v1/version").json() == {"release": __version__, "api": "1"}
    told = http.get("/v1/metadata").json()
    assert told["version"] == __version__
    assert {model["shortName"]: model["state"] for model in told["modelInfo"]} == {
        "diarizer": "READY",
        "echo": "READY",
        "asleep": "UNAVAILABLE",
    }


@pytest.mark.parametrize("path", ["/metrics", "/v1/metrics"])
def test_metrics(http: TestClient, post: Post, path: str, tools: Any) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    post()
    post({"model": "auto", "prompt": "x"})
    http.get("/no/such/path")
    answer = http.get(path)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name.removeprefix("spark_speech_gateway_"), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    route = ("route", tools.PATH)
    post_requests = ("requests_total", ("method", "POST"), route)
    assert found[(*post_requests, ("status", "200"))] == 1
    assert found[(*post_requests, ("status", "400"))] == 1
    assert found[("requests_total", ("method", "GET"), ("route", "unmatched"), ("status", "404"))] == 1
    assert found[("errors_total", ("kind", "unsupported_parameter"))] == 1
    assert found[("audio_seconds_total",)] == 4.0
    assert found[("real_time_factor_count",)] == 1
    assert found[("request_seconds_count", route)] == 2
    assert found[("in_flight",)] == 0


def test_two_gateways_count_for_themselves(make: Callable[..., Any]) -> None:
    first, second = make(), make()
    first.shared.metrics.transcribed(5, 1)
    assert b"audio_seconds_total 5.0" in first.shared.metrics.text()
    assert b"audio_seconds_total 0.0" in second.shared.metrics.text()


def test_request_ids(http: TestClient, lines: list[dict[str, Any]]) -> None:
    assert http.get("/v1/version", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    first, second = (http.get("/v1/version").headers["x-request-id"] for _ in range(2))
    assert first != second
    strange = http.get("/v1/version", headers={"X-Request-ID": 'a"b c'}).headers["x-request-id"]
    assert strange != 'a"b c'
    assert [line["id"] for line in lines] == ["mine-1", first, second, strange]


def test_the_access_log_tells_nothing_that_was_said(
    post: Post, lines: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, tools: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    post(headers={"Authorization": "Bearer sesame"})
    assert lines[0].keys() == {
        "id",
        "method",
        "route",
        "status",
        "s",
        "bytes",
        "audio_s",
        "real_time_factor",
    }
    assert (lines[0]["bytes"], lines[0]["audio_s"]) == (len(tools.RECORDING), 4.0)
    post({"model": "auto", "prompt": "sesame"})
    assert lines[1]["error"] == "unsupported_parameter"
    told = caplog.text + json.dumps(lines)
    for secret in ("sesame", "Good", "morning", "meeting", "RIFF"):
        assert secret not in told


def hashed(*keys: str) -> list[str]:
    return [hashlib.sha256(key.encode()).hexdigest() for key in keys]


def test_keys(make: Callable[..., Any]) -> None:
    gateway = make(api_key_hashes=hashed("one", "two"))
    with TestClient(gateway.app) as http:
        for authorization in ("Bearer one", "bearer two"):
            answer = http.get("/v1/models", headers={"Authorization": authorization})
            assert answer.status_code == 200
        for authorization in ("", "Bearer", "Bearer three", "Bearer one two", "Basic one", "one"):
            answer = http.get("/v1/models", headers={"Authorization": authorization})
            assert (answer.status_code, problem(answer)["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        answer = http.get("/v1/models", headers={b"Authorization": b"Bearer \xff\x00"})
        assert answer.status_code == 401


def test_without_a_key_only_health_is_told(make: Callable[..., Any], tools: Any) -> None:
    gateway = make(api_key_hashes=hashed("one"))
    with TestClient(gateway.app) as http:
        assert http.get("/v1/health/live").status_code == 200
        assert http.get("/v1/health/ready").status_code == 200
        for path in ("/metrics", "/v1/metrics", "/v1/metadata", "/v1/version", "/openapi.json", "/none"):
            assert http.get(path).status_code == 401
        assert http.post(tools.PATH, data={"model": "auto"}, files={"file": b"x"}).status_code == 401
    assert gateway.service.asked == []


def test_a_key_not_in_ascii(make: Callable[..., Any]) -> None:
    with TestClient(make(api_key_hashes=hashed("schlüssel")).app) as http:
        given = {b"Authorization": "Bearer schlüssel".encode()}
        assert http.get("/v1/models", headers=given).status_code == 200


PREFLIGHT = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}


def test_pages_of_other_origins_may_not_call_unless_named(make: Callable[..., Any], tools: Any) -> None:
    with TestClient(make().app) as http:
        assert http.options(tools.PATH, headers=PREFLIGHT).status_code == 405
        answer = http.get("/v1/models", headers={"Origin": "https://page.example"})
        assert "access-control-allow-origin" not in answer.headers
    allowed = make(cors_origins=["https://page.example"], api_key_hashes=hashed("one"))
    with TestClient(allowed.app) as http:
        answer = http.options(tools.PATH, headers=PREFLIGHT)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
            200,
            "https://page.example",
        )
        other = http.options(tools.PATH, headers=PREFLIGHT | {"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_no_page_of_the_gateway_asks_other_hosts(http: TestClient) -> None:
    assert http.get("/docs").status_code == 404
    assert http.get("/redoc").status_code == 404
