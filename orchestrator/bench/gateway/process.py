"""`spark-speech gateway` as a process, for as long as a benchmark needs it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import ServerStartError
from orchestrator.runtime.ports import free_ports

_END_LIMIT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A gateway: its process id, and ``host:port`` of its Riva service."""

    pid: int
    url: str


@contextmanager
def gateway_process(upstream: str, *, workers: int, max_streams: int) -> Iterator[GatewayProcess]:
    """A gateway in front of ``upstream`` (``host:port``) until the block ends.

    Raises:
        ServerStartError: it does not come up.
    """
    http_port, grpc_port = free_ports(2)
    settings = {
        "host": "127.0.0.1",
        "http_port": http_port,
        "grpc_port": grpc_port,
        "max_streams": max_streams,
        "drain_timeout_s": 1,
    }
    command = [
        sys.executable,
        "-m",
        "orchestrator.cli",
        *(f"--set=gateway.{key}={value}" for key, value in settings.items()),
        "gateway",
        f"--url={upstream}",
        f"--workers={workers}",
        "--json",
    ]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            if not _announced(process):
                log.seek(0)
                raise ServerStartError(f"the gateway did not come up: {log.read()[-500:].strip()}")
            yield GatewayProcess(process.pid, f"127.0.0.1:{grpc_port}")
        finally:
            process.terminate()
            try:
                process.wait(_END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _announced(process: subprocess.Popen[str]) -> bool:
    """Whether it said where it serves; it says so, or why it cannot, in one object."""
    text = ""
    for line in process.stdout or ():
        text += line
        if line.startswith("}"):
            break
    try:
        return "riva" in json.loads(text)
    except ValueError:
        return False
