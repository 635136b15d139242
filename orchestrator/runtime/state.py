"""What is known about the server that was started from a home: ``<home>/run/server.json``.

A process id alone may by now belong to somebody else, so the process's start time is kept with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from orchestrator.errors import AlreadyRunningError
from orchestrator.repository.storage import storage_errors, write_atomic

SAME_START_S: Final = 2.0
"""How far two readings of one process's start time may lie apart (the kernel counts in clock ticks)."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server that was started.

    Attributes:
        pid: its process id; its process group has the same id.
        created: when the process was created, seconds since the epoch, as psutil gives it.
        host: the address it is bound to.
        http_port, grpc_port, metrics_port: its ports.
        release: the id of the release it serves, None for a repository that is none.
        models: the models it was told to load.
        triton: the server's version.
        log: its log.
        shm_prefix: how the names of its shared memory regions begin.
    """

    pid: int
    created: float
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    release: str | None
    models: tuple[str, ...]
    triton: str
    log: str
    shm_prefix: str

    @property
    def ports(self) -> dict[str, int]:
        """The ports by the settings they come from."""
        return {
            "server.http_port": self.http_port,
            "server.grpc_port": self.grpc_port,
            "server.metrics_port": self.metrics_port,
        }

    def process(self) -> psutil.Process | None:
        """The live process, None when it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < SAME_START_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    @property
    def uptime_s(self) -> float:
        """Seconds since it was started."""
        return max(0.0, time.time() - self.created)

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON-ready data."""
        return {**asdict(self), "models": list(self.models)}


def state_path(home: Path) -> Path:
    """The state file."""
    return home / "run" / "server.json"


def read(home: Path) -> ServerState | None:
    """The state that was written last, whether its server still lives or not; None where there is none.

    A file that is damaged counts as none: the server it spoke of can be found only by its ports.
    """
    try:
        data = json.loads(state_path(home).read_text(encoding="utf-8"))
        return ServerState(**{**data, "models": tuple(data["models"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(home: Path, state: ServerState) -> None:
    """Write the state, whole or not at all."""
    write_atomic(state_path(home), (json.dumps(state.to_dict(), indent=2) + "\n").encode("utf-8"))


def remove(home: Path, state: ServerState) -> None:
    """Delete the state file, unless by now it speaks of another server."""
    if read(home) in (state, None):
        state_path(home).unlink(missing_ok=True)


@contextmanager
def start_lock(home: Path) -> Iterator[None]:
    """Hold the right to start a server from ``home``; it ends with the process that holds it.

    Raises:
        AlreadyRunningError: another process is starting one now.
    """
    path = home / "run" / "server.lock"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunningError(
                f"another `spark-speech up` is starting a server from {home}",
                fix="wait for it (`spark-speech status` tells), or stop it with `spark-speech down`",
            ) from error
        yield
    finally:
        os.close(handle)
