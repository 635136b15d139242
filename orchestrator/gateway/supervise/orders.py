"""What goes over the pipes between a supervisor and its workers.

A worker reads its `Brief`, one line of JSON, and then orders of one byte from its standard input. It writes
one `Report`, a line of JSON, to the file descriptor that the brief names.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from orchestrator.gateway.ports import Addresses

RETIRE: Final = b"r"
"""Another worker has taken over: leave the ports, finish what is under way, and end."""


class Brief(BaseModel):
    """What a worker serves, and how.

    Attributes:
        config_file, overrides, verbosity: as on the command line; the worker reads the settings itself.
        url: Triton's gRPC; None for the settings'.
        workers: how many share the settings' limits.
        secret: what all workers sign with, so that each knows what another gave out.
        listener: file descriptor of the HTTP port's socket.
        report: file descriptor of the report.
        host, http_port, grpc_port: where the supervisor listens.
    """

    model_config = ConfigDict(frozen=True)

    config_file: str | None
    overrides: tuple[str, ...]
    verbosity: int
    url: str | None
    workers: int
    secret: str
    listener: int
    report: int
    host: str
    http_port: int
    grpc_port: int | None


class Report(BaseModel):
    """That a worker serves, or why it cannot.

    Attributes:
        addresses: where it serves.
        error: the data of a `SpeechError`.
    """

    model_config = ConfigDict(frozen=True)

    addresses: Addresses | None = None
    error: dict[str, str | None] | None = None


def follow(orders: int, retire: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``retire`` when that is ordered, and end the process as SIGTERM does when nobody is left to order.

    Args:
        orders: the file descriptor that orders come from.
        retire: does it; run on the running event loop.
    """
    loop = asyncio.get_running_loop()
    retiring: list[asyncio.Task[None]] = []

    def read() -> None:
        order = os.read(orders, 1)
        if not order:
            loop.remove_reader(orders)
            os.kill(os.getpid(), signal.SIGTERM)
        elif order == RETIRE and not retiring:
            retiring.append(loop.create_task(retire()))

    loop.add_reader(orders, read)
