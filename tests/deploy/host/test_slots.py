from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.deploy.host import slots
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.slots import Health, HttpProbe, parse_settings, parse_streams

TOML = """
# rendered
[paths]
home = "/var/lib/spark-speech/slots/green"

[server]
host = "0.0.0.0"
http_port = 28100  # Triton's
[gateway]
grpc_port = 25151
tls_certfile = "/etc/spark-speech/cert.pem"
"""


def test_ports_are_those_of_the_settings_or_the_standard_ones(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    at = slots.ports(layout, "green")
    assert (at.triton_http, at.triton_grpc, at.triton_metrics) == (18100, 18101, 18102)
    assert (at.gateway_http, at.riva, at.tls) == (19100, 15151, False)
    assert slots.ports(layout, "blue").triton_grpc == 18001
    layout.slot("green").mkdir(parents=True)
    (layout.slot("green") / "spark-speech.toml").write_text(TOML)
    at = slots.ports(layout, "green")
    assert (at.host, at.triton_http, at.triton_grpc, at.riva, at.tls) == (
        "127.0.0.1",
        28100,
        18101,
        25151,
        True,
    )


def test_settings_by_section_and_key() -> None:
    found = parse_settings(TOML)
    assert found["server.http_port"] == "28100"
    assert found["paths.home"] == '"/var/lib/spark-speech/slots/green"'
    assert found["gateway.tls_certfile"] == '"/etc/spark-speech/cert.pem"'


def test_open_streams_of_all_models_together() -> None:
    page = (
        'speech_streams_open{instance="a_0"} 2\nspeech_streams_open{instance="b_0"} 1.000000\n'
        'speech_streams_open_ever{instance="b_0"} 9\n# HELP speech_streams_open Live\n'
    )
    assert parse_streams(page) == 3
    assert parse_streams("nv_gpu_utilization 1\n") is None


class Stack(BaseHTTPRequestHandler):
    def answer(self) -> None:
        bodies = {
            "/v2/health/ready": (200, b""),
            "/v2/repository/index": (
                200,
                b'[{"name":"m","version":"1","state":"READY"},{"name":"never asked for"},'
                b'{"name":"n","state":"UNAVAILABLE","reason":"torn"}]',
            ),
            "/v1/health/ready": (503, b""),
            "/metrics": (200, b'speech_streams_open{instance="m_0"} 4\n'),
        }
        status, body = bodies[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        return


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    monkeypatch.setattr(slots, "PROBE_S", 60.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stack)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    layout = Layout(tmp_path)
    layout.slot("blue").mkdir(parents=True)
    port = server.server_port
    (layout.slot("blue") / "spark-speech.toml").write_text(
        f"[server]\nhttp_port = {port}\nmetrics_port = {port}\n[gateway]\nhttp_port = {port}\n"
    )
    yield layout
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_a_slot_answers(stack: Layout) -> None:
    probe = HttpProbe(stack)
    assert probe.health("blue") == Health(
        True,
        False,
        [
            {"name": "m", "ready": True, "reason": ""},
            {"name": "n", "ready": False, "reason": "torn"},
        ],
    )
    assert probe.streams("blue") == 4


def test_a_slot_that_does_not_answer_is_not_ready(tmp_path: Path) -> None:
    probe = HttpProbe(Layout(tmp_path))
    assert probe.health("green").ready is False
    assert probe.streams("green") is None


@pytest.mark.parametrize(
    ("health", "ready"),
    [
        (Health(True, True, []), True),
        (Health(True, False, []), False),
        (Health(False, True, []), False),
        (Health(True, True, [{"ready": False}]), False),
    ],
)
def test_ready_is_all_of_it(health: Health, ready: bool) -> None:
    assert health.ready is ready
