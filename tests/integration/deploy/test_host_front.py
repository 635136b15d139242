"""The host program and a real HAProxy: no request is lost in a switch, and states outlive a restart."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.deploy.host import front as fronts
from orchestrator.deploy.host.front import BACKENDS, HaproxyFront, switched_file
from orchestrator.deploy.host.layout import Layout
from orchestrator.errors import FrontError
from orchestrator.runtime.ports import free_ports

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy: apt-get install haproxy"),
]

CONFIG = """
global
    stats socket {socket} level admin
    server-state-file {state}
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout queue 1s
    # Without this, a check must be answered within its interval, which a busy machine may not do.
    timeout check 20s
    load-server-state-from-file global
    retries 3
    option redispatch 1
{sections}
"""
SECTION = """
frontend {name}_in
    bind 127.0.0.1:{port}
    default_backend {name}
backend {name}
    stick-table type string len 32 size 10k expire 10m
    stick on req.hdr(spark-speech-sequence)
    option httpchk HEAD /
    default-server check inter 100ms fall 20 rise 1 disabled
    server blue 127.0.0.1:{blue}
    server green 127.0.0.1:{green}
"""


class Server(ThreadingHTTPServer):
    """It says nothing of a client that goes away: HAProxy's checks do."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Slot:
    """A slot's server: it answers its name, once ``open`` is set."""

    def __init__(self, name: str, port: int) -> None:
        slot = self
        self.open = threading.Event()
        self.open.set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.send_response(200)
                self.end_headers()

            def do_GET(self) -> None:
                slot.open.wait(60)
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *arguments: object) -> None:
                return

        self._server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self._stopped = False

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class Proxy:
    """A HAProxy before two slots."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder, folder / "front.sock")
        self.layout.deploy.mkdir(parents=True)
        self.layout.front_state.write_text("1\n")
        ports = free_ports(5)
        self.slots = {name: Slot(name, port) for name, port in zip(("blue", "green"), ports, strict=False)}
        self.port = ports[2]
        sections = [
            SECTION.format(name=name, port=port, blue=ports[0], green=ports[1])
            for name, port in zip(BACKENDS, ports[2:], strict=True)
        ]
        self._config = folder / "haproxy.cfg"
        self._config.write_text(
            CONFIG.format(
                socket=self.layout.front_socket, state=self.layout.front_state, sections="".join(sections)
            )
        )
        self.front = HaproxyFront(self.layout)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(["haproxy", "-db", "-f", str(self._config)])
        deadline = time.monotonic() + 60
        while not self.front.running():
            assert time.monotonic() < deadline
            assert self._process.poll() is None
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None
        self.layout.front_socket.unlink(missing_ok=True)

    def ask(self, sequence: str | None = None) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/work")
        if sequence is not None:
            request.add_header("spark-speech-sequence", sequence)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def states(self) -> dict[str, set[str]]:
        """What each slot's servers are set to, in all backends."""
        return {slot: {row.admin for row in self.front.servers() if row.slot == slot} for slot in self.slots}


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with ExitStack() as stack:
        made = Proxy(tmp_path)
        stack.callback(made.stop)
        for slot in made.slots.values():
            stack.callback(slot.stop)
        yield made


@contextmanager
def load(proxy: Proxy) -> Iterator[list[str]]:
    """Requests without a pause from three clients; what each was answered, or how it failed."""
    answers: list[str] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            try:
                answers.append(proxy.ask())
            except OSError as error:
                answers.append(repr(error))

    clients = [threading.Thread(target=client) for _ in range(3)]
    for thread in clients:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in clients:
            thread.join()


def test_nothing_serves_before_the_first_switch(proxy: Proxy) -> None:
    assert proxy.states() == {"blue": {"maint"}, "green": {"maint"}}
    with pytest.raises(urllib.error.HTTPError, match="503"):
        proxy.ask()
    assert proxy.front.switch("blue") is True
    assert proxy.ask() == "blue"
    assert proxy.front.switch("blue") is False
    assert len(proxy.front.servers()) == 2 * len(BACKENDS)


def test_switching_to_and_fro_loses_no_request(proxy: Proxy) -> None:
    proxy.front.switch("blue")
    with load(proxy) as answers:
        for number in range(20):
            slot = ("green", "blue")[number % 2]
            proxy.front.switch(slot)
            deadline = time.monotonic() + 60
            begun = len(answers)
            while answers[-1:] != [slot] or len(answers) < begun + 5:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            proxy.front.set_state(("blue", "green")[number % 2], "maint")
    assert set(answers) == {"blue", "green"}


def test_a_sequence_stays_where_it_is_while_new_work_goes_elsewhere(proxy: Proxy) -> None:
    proxy.front.switch("blue")
    assert proxy.ask("17") == "blue"
    proxy.front.switch("green")
    assert proxy.ask("17") == "blue"
    assert proxy.ask("18") == proxy.ask() == "green"
    assert proxy.front.sequences("blue") == 1
    assert proxy.front.sequences("green") == 1
    proxy.front.set_state("blue", "maint")
    assert proxy.ask("17") == "green"


def test_requests_under_way_are_counted_until_they_end(proxy: Proxy) -> None:
    proxy.front.switch("blue")
    proxy.slots["blue"].open.clear()
    thread = threading.Thread(target=proxy.ask)
    thread.start()
    deadline = time.monotonic() + 60
    while proxy.front.sessions("blue") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    proxy.front.switch("green")
    assert proxy.front.sessions("blue") == 1
    proxy.slots["blue"].open.set()
    thread.join()
    deadline = time.monotonic() + 60
    while proxy.front.sessions("blue"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("drained", ["drain", "maint"])
def test_the_states_outlive_a_restart(proxy: Proxy, drained: str) -> None:
    proxy.front.switch("blue")
    proxy.front.switch("green")
    proxy.front.set_state("blue", drained)
    before = proxy.states()
    assert before == {"blue": {drained}, "green": {"ready"}}
    proxy.stop()
    proxy.start()
    assert proxy.states() == before
    assert {proxy.ask() for _ in range(20)} == {"green"}


def test_a_file_written_for_a_front_that_is_down_is_what_it_starts_with(proxy: Proxy) -> None:
    proxy.front.switch("blue")
    proxy.front.switch("green")
    proxy.stop()
    text = proxy.layout.front_state.read_text()
    proxy.layout.front_state.write_text(switched_file(text, "blue"))
    proxy.start()
    assert proxy.states() == {"blue": {"ready"}, "green": {"maint"}}
    assert {proxy.ask() for _ in range(20)} == {"blue"}


@pytest.mark.parametrize("seen_before", [False, True])
def test_a_slot_that_the_front_cannot_reach_is_not_switched_to(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, seen_before: bool
) -> None:
    if seen_before:
        proxy.front.switch("green")
    proxy.front.switch("blue")
    proxy.front.set_state("green", "maint")
    proxy.slots["green"].stop()
    monkeypatch.setattr(fronts, "UP_WAIT_S", 2.0)
    with load(proxy) as answers, pytest.raises(FrontError, match="does not see slot green up in triton"):
        proxy.front.switch("green")
    assert proxy.states() == {"blue": {"ready"}, "green": {"maint"}}
    assert set(answers) == {"blue"}


def test_a_front_that_is_down_says_how_to_start_it(proxy: Proxy) -> None:
    proxy.stop()
    assert proxy.front.running() is False
    with pytest.raises(FrontError, match="does not answer") as failure:
        proxy.front.switch("blue")
    assert failure.value.fix is not None
