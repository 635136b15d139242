"""The front as its role writes it, run without systemd, and small servers to stand behind it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from orchestrator import resources
from orchestrator.deploy.host.front import HaproxyFront
from orchestrator.deploy.host.layout import Layout
from orchestrator.runtime.ports import free_ports
from tests.client.conftest import Model, hear
from tests.client.stream.conftest import FakeStreams
from tests.client.stream.simulated import say

SERVICES = ("triton", "gateway", "riva")
TEXT = "it was the best of times it was the worst of times"
_LISTENED = 0x3
"""Of the flags of "show peers": what older processes and other machines know has come, or never will."""


def until(true: Callable[[], Any], within_s: float = 60.0) -> None:
    """Wait for it; fail where it does not come."""
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def balancer_variables(servers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the role load_balancer hands to the front's, with these hosts."""
    tasks = yaml.safe_load((resources.playbooks() / "roles/load_balancer/tasks/main.yml").read_text())
    (given,) = [task["vars"] for task in tasks if "vars" in task]
    plain = {key: value for key, value in given.items() if "{{" not in str(value)}
    return plain | {"front_servers": list(servers)}


RENDERER = """
import json, sys
from pathlib import Path
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

roles, given = Path(sys.argv[1]), json.load(sys.stdin)
loader, known = DataLoader(), {}
for role in ("spark_speech", "front"):
    known |= loader.load_from_file(str(roles / role / "defaults/main.yml"), trusted_as_template=True)
text = (roles / "front/templates/front.cfg.j2").read_text()
print(Templar(loader, variables=known | given).template(trust_as_template(text)))
"""
"""In a process of its own: Ansible replaces functions of Python's that torch then trips over."""


def render(folder: Path, name: str = "front", **variables: Any) -> Path:
    """The configuration that the role would write: its template and its defaults, by Ansible's own engine."""
    given = {"front_name": name, "ansible_managed": "test", **variables}
    done = subprocess.run(
        [sys.executable, "-c", RENDERER, str(resources.playbooks() / "roles")],
        input=json.dumps(given, default=str),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = folder / f"{name}.cfg"
    written.write_text(done.stdout)
    return written


@dataclass
class Front:
    """A running HAProxy with the rendered configuration."""

    folder: Path
    name: str
    config: Path
    ports: dict[str, int]
    files: int | None = None
    """How many it may open; None: as many as this process."""
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        layout = Layout(self.folder, self.folder / f"{self.name}.sock")
        self.control = HaproxyFront(layout)
        self.start()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.ports['triton']}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self.folder / f"{self.name}.log").open("ab")
        limit = [] if self.files is None else ["prlimit", f"--nofile={self.files}:{self.files}"]
        with log:
            self.process = subprocess.Popen(
                [*limit, "haproxy", "-W", "-f", str(self.config)], stdout=log, stderr=log, cwd=self.folder
            )
        until(self.control.running)

    def reload(self) -> None:
        """As `systemctl reload`: a new worker takes over, the old one finishes what it has."""
        before = self._worker()
        self.process.send_signal(signal.SIGUSR2)
        until(lambda: self.control.running() and self._worker() != before)

    def ready_to_tell(self) -> bool:
        """Whether it can pass on what it knows: a new one first listens for 5 s to an older one."""
        found = re.search(r"id=own .*flags=0x([0-9a-f]+)", self.ask("show peers"))
        return found is not None and int(found[1], 16) & _LISTENED == _LISTENED

    def _worker(self) -> str:
        lines = self.ask("show info").splitlines()
        return next((line for line in lines if line.startswith("Pid:")), "")

    def signal(self, number: int) -> None:
        """To all of its processes, by their configuration."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(self.config) in path.read_text():
                    os.kill(int(path.parent.name), number)
            except OSError:
                continue

    def stop(self) -> None:
        """End it at once."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def ask(self, command: str) -> str:
        """One command to the runtime socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            try:
                connection.connect(str(self.folder / f"{self.name}.sock"))
            except OSError:
                return ""
            connection.sendall(command.encode() + b"\n")
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
        return b"".join(parts).decode()

    def up(self, *names: str) -> bool:
        """Whether exactly these servers take new work, in all services."""
        return self.servers_up() == {(service, name) for service in SERVICES for name in names}

    def servers_up(self) -> set[tuple[str, str]]:
        """Services and servers that take new work."""
        rows = [line.split(",") for line in self.ask("show stat").splitlines()]
        return {
            (row[0], row[1])
            for row in rows
            if row[0] in SERVICES and row[1] != "BACKEND" and row[17].startswith("UP")
        }


@contextmanager
def running_front(
    folder: Path, name: str = "front", *, files: int | None = None, **variables: Any
) -> Iterator[Front]:
    """Render and start; stopped at the end, whatever happened."""
    *service_ports, metrics = free_ports(4)
    ports = dict(zip(SERVICES, service_ports, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    config = render(
        folder,
        name,
        **{
            "front_ports": ports,
            "front_listen": "127.0.0.1",
            "front_metrics_port": metrics,
            "front_run": str(folder),
            "spark_speech_home": str(folder),
            "front_state": str(folder / "deploy" / "front.state"),
            "front_reload_limit": "60s",
            "front_check_interval": "200ms",
            # A check that a busy machine holds up is none that failed.
            "front_check_timeout": "20s",
            "front_check_fall": 5,
        }
        | variables,
    )
    (folder / "deploy").mkdir(exist_ok=True)
    (folder / "deploy" / "front.state").write_text("1\n")
    front = Front(folder, name, config, ports, files)
    try:
        yield front
    finally:
        front.signal(signal.SIGKILL)
        front.process.wait()


class StandIn(FakeStreams):
    """A slot, or a host: Triton's gRPC with simulated models, and HTTP that says whether it is ready."""

    def __init__(self, name: str, streams: int = 64) -> None:
        super().__init__()
        self.name = name
        self.max_streams = streams
        self.models["ears"].parameters["max_streams"] = str(streams)
        self.models["echo"] = Model(
            hear(TEXT), {"task": "recognize", "languages": "en", "max_window_s": "30", "rank": "1"}
        )
        self.asked: list[str] = []
        handler = type("Handler", (_Health,), {"owner": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.healthy = True
        self.once: int | None = None
        """What the next check alone is told."""
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.start()

    @property
    def entry(self) -> dict[str, Any]:
        """It as a server of the front's configuration."""
        http = self.http.server_address[1]
        return {
            "name": self.name,
            "address": "127.0.0.1",
            "triton": self.port,
            "triton_check": http,
            "gateway": http,
            "riva": self.port,
            "riva_check": http,
        }

    @property
    def requests(self) -> int:
        """Inferences and chunks that arrived."""
        return len(self.seen) + len(self.chunks)

    def kill(self) -> None:
        """As a machine without power, but for its address: nothing answers any more."""
        self.healthy = False
        self.die()

    def close(self) -> None:
        self.stop()
        self.http.shutdown()
        self.http.server_close()


class _Health(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: StandIn

    def do_GET(self) -> None:
        self.owner.asked.append(self.path)
        body = self.owner.name.encode()
        told = self.owner.once
        if told is not None:
            self.owner.once = None
        self.send_response(told or (200 if self.owner.healthy else 503))
        self.send_header("Content-Length", str(len(body)))
        with contextlib.suppress(OSError):  # a check needs no more than the status
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def stand_ins(*names: str, streams: int = 64) -> Iterator[list[StandIn]]:
    """Some of them, closed at the end."""
    made = [StandIn(name, streams) for name in names]
    try:
        yield made
    finally:
        for one in made:
            one.close()


def speech(words: int) -> tuple[list[Any], list[str]]:
    """80 ms pieces of a talk of so many words with pauses, and the words."""
    sound = say([(level, 160, 400) for level in range(1, words + 1)])
    return [sound[begin : begin + 1280] for begin in range(0, len(sound), 1280)], [
        f"w{level}" for level in range(1, words + 1)
    ]


def paced(pieces: Sequence[Any], speed: float) -> Iterator[Any]:
    """The pieces as somebody says them, ``speed`` times as fast."""
    for piece in pieces:
        yield piece
        time.sleep(len(piece) / 16_000 / speed)
