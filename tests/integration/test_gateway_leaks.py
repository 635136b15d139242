"""Bad and half-hearted clients of the HTTP port: memory, open files and uploads are where they were."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.gateway_process import LIMIT_S, Running, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PATH = b"/v1/audio/transcriptions"
HEAD = b"POST " + PATH + b" HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=g\r\n"
FILE = b'--g\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
MODEL = b'--g\r\nContent-Disposition: form-data; name="model"\r\n\r\nauto\r\n'
MAX_REQUESTS = 16
TIMES_S = 0.5
"""Of the gateway's limits on heads and bodies."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("leaks"),
        max_upload_bytes=1_000_000,
        upload_timeout_s=TIMES_S,
        head_timeout_s=TIMES_S,
        stream_idle_timeout_s=TIMES_S,
        max_requests=MAX_REQUESTS,
    ) as started:
        yield started
        assert started.process.poll() is None, "it must have lived through all tests"
        assert "Traceback" not in started.log.read_text()


Attack = Callable[[socket.socket, random.Random], None]


def slow_head(peer: socket.socket, dice: random.Random) -> None:
    peer.sendall(HEAD[: dice.randrange(1, len(HEAD))])
    peer.recv(1000)


def slow_body(peer: socket.socket, dice: random.Random) -> None:
    peer.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + FILE)
    for _ in range(5):
        peer.sendall(dice.randbytes(10))
        time.sleep(0.01)
    peer.recv(1000)


def cut(peer: socket.socket, dice: random.Random) -> None:
    """Gone in the middle of the upload, without a word."""
    peer.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + FILE + dice.randbytes(dice.randrange(5000)))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def half_closed(peer: socket.socket, dice: random.Random) -> None:
    """Nothing more to send, though it announced more; still there to read."""
    peer.sendall(HEAD + b"Content-Length: 5000\r\n\r\n" + FILE + dice.randbytes(dice.randrange(4000)))
    peer.shutdown(socket.SHUT_WR)
    peer.recv(1000)


def malformed(peer: socket.socket, dice: random.Random) -> None:
    """A form with wrong bytes in its heads and boundaries."""
    body = bytearray(FILE + dice.randbytes(2000) + b"\r\n" + MODEL + b"--g--\r\n")
    for _ in range(8):
        body[dice.choice((dice.randrange(80), len(body) - 1 - dice.randrange(90)))] = dice.randrange(256)
    peer.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    peer.recv(1000)


def many_fields(peer: socket.socket, dice: random.Random) -> None:
    body = MODEL * 2000
    peer.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    peer.recv(1000)


def too_large(peer: socket.socket, dice: random.Random) -> None:
    """An endless body, of which it never reads the refusal."""
    peer.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(FILE), FILE))
    for _ in range(40):
        peer.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def no_http(peer: socket.socket, dice: random.Random) -> None:
    peer.sendall(dice.randbytes(dice.randrange(1, 5000)))
    peer.recv(1000)


def no_websocket(peer: socket.socket, dice: random.Random) -> None:
    """An upgrade with noise behind it."""
    upgrade = b"GET /v1/realtime?intent=transcription HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    peer.sendall(upgrade + b"Upgrade: websocket\r\n" + key + b"\r\n")
    peer.recv(1000)
    peer.sendall(dice.randbytes(dice.randrange(1, 3000)))
    peer.recv(1000)


ATTACKS: tuple[Attack, ...] = (
    slow_head,
    slow_body,
    cut,
    half_closed,
    malformed,
    many_fields,
    too_large,
    no_http,
    no_websocket,
)


def rounds(gateway: Running, dice: random.Random, count: int) -> None:
    """Each attack ``count`` times; the gateway may end any of them as it likes."""
    for attack in ATTACKS:
        for _ in range(count):
            with (
                socket.create_connection(("127.0.0.1", gateway.port), timeout=LIMIT_S) as peer,
                suppress(BrokenPipeError, ConnectionResetError),
            ):
                attack(peer, dice)


def settled(process: psutil.Process, files: int) -> bool:
    """Whether soon no more than ``files`` files are open."""
    deadline = time.monotonic() + LIMIT_S
    while process.num_fds() > files and time.monotonic() < deadline:
        time.sleep(0.1)
    return process.num_fds() <= files


def test_bad_clients_leave_nothing(gateway: Running) -> None:
    dice = random.Random(7)
    process = psutil.Process(gateway.process.pid)
    rounds(gateway, dice, 2)  # loads what is loaded late
    time.sleep(3 * TIMES_S)
    files, memory = process.num_fds(), process.memory_info().rss
    rounds(gateway, dice, 8)
    assert settled(process, files + 2)
    assert process.memory_info().rss - memory < 30_000_000
    deadline = time.monotonic() + LIMIT_S
    while gateway.uploads and time.monotonic() < deadline:  # of those who went without a word
        time.sleep(0.1)
    assert gateway.uploads == []
    assert httpx.get(f"{gateway.url}/v1/health/live", timeout=LIMIT_S).status_code == 200


def test_slow_clients_do_not_keep_others_out(tmp_path: Path) -> None:
    """As many slow uploads as there are places: refused in time, and then there is room again."""
    head = HEAD + b"Content-Length: 100000\r\n\r\n" + FILE
    # All of them must have come before the first one's time is up.
    with running(tmp_path, upload_timeout_s=10, max_requests=MAX_REQUESTS) as gateway:
        at = ("127.0.0.1", gateway.port)
        peers = [socket.create_connection(at, timeout=LIMIT_S) for _ in range(3 * MAX_REQUESTS)]
        try:
            for peer in peers:
                peer.sendall(head)
            answers = [peer.recv(100).split(b" ", 2)[1] for peer in peers]
        finally:
            for peer in peers:
                peer.close()
        assert set(answers) == {b"408", b"429"}
        assert answers.count(b"408") >= MAX_REQUESTS
        body = MODEL + b"--g--\r\n"
        with socket.create_connection(at, timeout=LIMIT_S) as peer:
            peer.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert peer.recv(100).startswith(b"HTTP/1.1 400"), "read, and found without a recording"


def test_hundreds_of_idle_connections_are_closed(gateway: Running) -> None:
    process = psutil.Process(gateway.process.pid)
    files = process.num_fds()
    peers = [socket.create_connection(("127.0.0.1", gateway.port), timeout=LIMIT_S) for _ in range(300)]
    try:
        assert all(peer.recv(1) == b"" for peer in peers)
    finally:
        for peer in peers:
            peer.close()
    assert settled(process, files + 2)


def test_the_log_tells_each_of_them_without_what_they_sent(gateway: Running) -> None:
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines() if line.startswith("{")]
    codes = {line.get("error") for line in lines}
    assert {"upload_timeout", "client_closed", "malformed_body", "file_too_large"} <= codes
    assert "a.wav" not in Path(gateway.log).read_text()
