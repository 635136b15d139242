from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.errors import MissingDependencyError, OverloadedError
from orchestrator.gateway.observed import ObservedService
from orchestrator.gateway.tracing import exporting
from orchestrator.settings import GatewaySettings
from orchestrator.tracing import span

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector:
    """Takes spans over HTTP, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> dict[str, Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        found = [
            one
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for one in scope.spans
        ]
        return {one.name: one for one in found}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def attributes(one: Any) -> dict[str, Any]:
    values = {pair.key: pair.value for pair in one.attributes}
    return {key: getattr(value, value.WhichOneof("value")) for key, value in values.items()}


def test_a_request_and_its_upstream_are_one_trace(
    make: Callable[..., Any], collector: Collector, tools: Any
) -> None:
    with exporting(collector.url):
        gateway = make()
        object.__setattr__(
            gateway.shared, "service", ObservedService(gateway.service, gateway.shared.metrics)
        )
        with TestClient(gateway.app) as http:
            answer = http.post(
                tools.PATH,
                data={"model": "auto"},
                files={"file": ("secret-name.wav", tools.RECORDING)},
                headers={
                    "X-Request-ID": "call-7",
                    "traceparent": f"00-{TRACE}-{PARENT}-01",
                    "Authorization": "Bearer secret-key",
                },
            )
            assert answer.status_code == 200
            assert http.get("/nowhere").status_code == 404
    request = collector.spans[f"POST {tools.PATH}"]
    upstream = collector.spans["upstream recording"]
    assert request.trace_id.hex() == upstream.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert upstream.parent_span_id == request.span_id
    noted = attributes(request)
    assert noted["speech.request_id"] == "call-7"
    assert (noted["speech.status"], noted["speech.audio_s"]) == (200, 4.0)
    assert attributes(upstream)["speech.audio_s"] == 4.0
    missing = collector.spans["GET unmatched"]
    assert (missing.status.code, attributes(missing)["error.type"]) == (2, "not_found")
    for said in (b"morning", b"secret-name", b"secret-key", b"nowhere"):
        assert not any(said in body for body in collector.bodies)


def test_an_error_is_a_kind_and_never_its_message(collector: Collector) -> None:
    def refuse() -> None:
        raise OverloadedError("what somebody said")

    with exporting(collector.url), pytest.raises(OverloadedError), span("work"):
        refuse()
    assert attributes(collector.spans["work"]) == {"error.type": "OverloadedError"}
    assert not any(b"somebody" in body for body in collector.bodies)


def test_tasks_begun_in_a_span_are_below_it(collector: Collector) -> None:
    async def part() -> None:
        with span("part", size=3, nothing=None):
            await asyncio.sleep(0)

    async def whole() -> None:
        with span("whole"):
            await asyncio.gather(asyncio.create_task(part()))

    with exporting(collector.url):
        asyncio.run(whole())
    assert collector.spans["part"].parent_span_id == collector.spans["whole"].span_id
    assert attributes(collector.spans["part"]) == {"speech.size": 3}


def test_nothing_is_sent_or_imported_unless_asked_for() -> None:
    code = (
        "import sys\nfrom orchestrator.gateway.server import serve\nfrom orchestrator.tracing import span\n"
        "from orchestrator.gateway.tracing import exporting\n"
        "with exporting(None), span('work') as current: current.note(size=1)\n"
        "unwanted = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"
        "print([name for name in sys.modules if name.startswith(unwanted)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingDependencyError, match="otlp_endpoint") as raised, exporting("http://h:4318"):
        pass
    assert "spark-speech[otel]" in str(raised.value.fix)


@pytest.mark.parametrize("wrong", ["collector:4318", "ftp://collector", "http://", "http://h?x=1"])
def test_an_endpoint_is_a_url(wrong: str) -> None:
    with pytest.raises(ValueError, match="http://127"):
        GatewaySettings(otlp_endpoint=wrong)
