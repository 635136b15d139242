"""Slow and half-hearted clients on real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from orchestrator.gateway import ports
from orchestrator.gateway.http.patience import patient_h11
from orchestrator.settings import GatewaySettings
from orchestrator.transcript.models import Segment, Transcript

HEAD = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\n"
    b"Content-Type: multipart/form-data; boundary=gggg\r\n"
)


class Served:
    """An application on a port of its own."""

    def __init__(self, server: uvicorn.Server, port: int) -> None:
        self.server = server
        self.port = port

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    @contextmanager
    def connect(self, receive_buffer: int | None = None) -> Iterator[socket.socket]:
        with socket.socket() as peer:
            if receive_buffer is not None:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            peer.settimeout(60)
            peer.connect(("127.0.0.1", self.port))
            yield peer


@pytest.fixture
def serve(make: Callable[..., Any]) -> Iterator[Callable[..., tuple[Served, Any]]]:
    """Serve an application as the gateway does."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(**settings: Any) -> tuple[Served, Any]:
        from orchestrator.runtime.ports import free_ports

        port = free_ports(1)[0]
        gateway = make(http_port=port, **settings)
        chosen: GatewaySettings = gateway.shared.settings
        listener = ports.listen(chosen)
        config = uvicorn.Config(
            gateway.app, http=patient_h11(chosen.head_timeout_s), lifespan="off", log_config=None
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        running.append((server, thread))
        until(lambda: server.started)
        return Served(server, port), gateway

    yield start
    for server, thread in running:
        server.should_exit = server.force_exit = True
        thread.join(60)


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def drip(peer: socket.socket, byte: bytes) -> None:
    for _ in range(3000):
        peer.sendall(byte)
        time.sleep(0.02)


def answer(peer: socket.socket) -> bytes:
    """One answer, head and body."""
    got = b""
    while b"}" not in got:
        chunk = peer.recv(65_536)
        assert chunk
        got += chunk
    return got


def rest(peer: socket.socket) -> bytes:
    """What comes until the other side ends the connection."""
    answer = b""
    try:
        while chunk := peer.recv(65_536):
            answer += chunk
    except ConnectionResetError:
        pass
    return answer


@pytest.mark.parametrize("begun", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_come(serve: Any, begun: bytes) -> None:
    served, _ = serve(head_timeout_s=0.3)
    began = time.monotonic()
    with served.connect() as peer:
        peer.sendall(begun)
        assert rest(peer) == b""
    assert time.monotonic() - began >= 0.3, "it had been taken"
    until(lambda: served.connections == 0)


def test_a_head_that_drips(serve: Any) -> None:
    """Each byte comes soon after the last one; the whole counts."""
    served, _ = serve(head_timeout_s=0.5)
    with served.connect() as peer, pytest.raises((BrokenPipeError, ConnectionResetError)):
        drip(peer, b"G")
    until(lambda: served.connections == 0)


def test_the_second_head_has_the_same_time(serve: Any) -> None:
    served, _ = serve(head_timeout_s=5)  # time enough for the heads that are to come in time
    with served.connect() as peer:
        for _ in range(2):
            peer.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer(peer).startswith(b"HTTP/1.1 200")
        peer.sendall(b"GET /v1")
        assert rest(peer) == b""
    until(lambda: served.connections == 0)


def test_a_request_that_is_at_work_is_left_alone(serve: Any, tools: Any) -> None:
    """The clock is for heads: neither a slow upload nor slow work is cut by it."""
    served, gateway = serve(head_timeout_s=2)
    gateway.service.hold = asyncio.Event()
    body = tools.multipart({"model": "auto"})
    with served.connect() as peer:
        peer.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:30])
        time.sleep(2.5)
        peer.sendall(body[30:])
        until(lambda: bool(gateway.service.asked))
        time.sleep(2.5)
        served.server.servers[0].get_loop().call_soon_threadsafe(gateway.service.hold.set)
        assert peer.recv(65_536).startswith(b"HTTP/1.1 200")


def test_a_body_after_its_answer(serve: Any) -> None:
    """Refused by its head; what the client goes on sending, byte for byte, holds nothing for long."""
    served, _ = serve(head_timeout_s=2, api_key_hashes=["0" * 64])
    with served.connect() as peer:
        peer.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        assert peer.recv(65_536).startswith(b"HTTP/1.1 401")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(peer, b"x")
    until(lambda: served.connections == 0)


@pytest.mark.parametrize("stream", ["true", "false"])
def test_an_answer_that_nobody_reads(serve: Any, tools: Any, stream: str) -> None:
    """The place is free at once, and the connection ends with what waits in it."""
    served, gateway = serve(stream_idle_timeout_s=1)
    long = "word " * 20_000
    gateway.service.transcript = Transcript(
        duration=1.0, segments=tuple(Segment(start=0, end=1, text=long) for _ in range(200))
    )
    body = tools.multipart({"model": "auto", "stream": stream})
    with served.connect(receive_buffer=4096) as peer:
        peer.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: bool(gateway.service.asked) and gateway.shared.admission.running == 0)
        assert gateway.uploads == []
        until(lambda: served.connections == 0)
