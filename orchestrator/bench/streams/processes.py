"""Client processes: kept for all runs of a benchmark, started together for each."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Final

import grpc.aio

from orchestrator.bench.streams.load import Load, Outcome
from orchestrator.bench.workers import answer, tell, workers
from orchestrator.errors import ServerUnavailableError

HEAD_START_S: Final = 0.5
"""Between the moment when all processes are ready and the first chunk's beginning."""
READY_LIMIT_S: Final = 60.0
"""A new process imports gRPC and connects within this."""


class Processes:
    """Processes that send load; made by `client_processes`."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def __len__(self) -> int:
        """How many there are."""
        return len(self._pipes)

    def run(self, loads: Sequence[Load]) -> list[Outcome]:
        """Send ``loads``, one a process, at the same time, and wait for the end.

        Raises:
            ServerUnavailableError: a process cannot connect, or ended.
        """
        pipes = self._pipes[: len(loads)]
        for pipe, load in zip(pipes, loads, strict=True):
            tell(pipe, load)
        for pipe in pipes:
            answer(pipe, READY_LIMIT_S)
        start = time.monotonic() + HEAD_START_S
        for pipe in pipes:
            tell(pipe, start)
        limit_s = max(load.seconds for load in loads) + 2 * READY_LIMIT_S
        return [answer(pipe, limit_s) for pipe in pipes]


@contextmanager
def client_processes(count: int) -> Iterator[Processes]:
    """``count`` processes until the block ends."""
    with workers(count, _serve, "streams") as pipes:
        yield Processes(pipes)


def _serve(pipe: Connection) -> None:
    """A client process: loads in, outcomes out, until the pipe is closed."""
    while True:
        try:
            load = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        # A collection of garbage would hold up all streams of the process.
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            asyncio.run(_drive(load, pipe))
        except (EOFError, BrokenPipeError, KeyboardInterrupt):
            return
        except (grpc.aio.AioRpcError, TimeoutError, OSError) as error:
            reason = str(error) or f"no answer within {load.connect_limit_s:g} s"
            pipe.send(ServerUnavailableError(f"cannot connect: {reason}", host=load.url))
        finally:
            gc.enable()


async def _drive(load: Load, pipe: Connection) -> None:
    clients = load.clients()
    async with asyncio.timeout(load.connect_limit_s):
        await clients.connect()
    pipe.send(None)
    # Nothing else is to be done in this process until the start is known.
    start: float = pipe.recv()
    pipe.send(await clients.run(start))
