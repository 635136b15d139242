"""Keeps workers: as many as asked for, of the source and the settings as they are now, on the same ports.

A new worker serves before the old one leaves, so no connection finds the ports closed: the HTTP port's socket
is the supervisor's and shared by all workers, and the gRPC port is shared through SO_REUSEPORT.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from orchestrator.errors import SpeechError
from orchestrator.gateway import ports
from orchestrator.gateway.supervise.orders import Brief
from orchestrator.gateway.supervise.process import Worker
from orchestrator.gateway.supervise.watch import SourceWatch, State, changed, check_syntax
from orchestrator.settings import GatewaySettings

POLL_S: Final = 0.25
SETTLE_S: Final = 0.1
"""Editors write several files, or one in several steps: changes are taken up once there are no more."""
RETRY_S: Final = 5.0
"""Before another try to replace a worker that died."""
_ENDING_S: Final = 15.0
"""On top of the time to drain; then workers are killed."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a supervisor is to do.

    Attributes:
        gateway: the ports, and the time to drain.
        config_file, overrides, verbosity, url: for the workers; see `Brief`.
        workers: how many.
        watch: whose changes bring new workers; None: nothing does.
    """

    gateway: GatewaySettings
    config_file: str | None = None
    overrides: tuple[str, ...] = ()
    verbosity: int = 0
    url: str | None = None
    workers: int = 1
    watch: SourceWatch | None = None


class Supervisor:
    """Runs once, on an asyncio event loop."""

    def __init__(self, task: Task, announce: Callable[[ports.Addresses], None]) -> None:
        """Prepare; ``announce`` is told the addresses when all workers serve for the first time."""
        self._task = task
        self._announce = announce
        self._secret = secrets.token_hex(32)
        self._alive: set[Worker] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C; then let the workers finish, and return.

        Raises:
            PortInUseError: a port is taken.
            ConfigurationError: the host is no address of this machine.
            ServerStartError: the first workers cannot serve.
        """
        gateway = self._task.gateway
        ports.check(gateway)
        with ExitStack() as held:
            listener = held.enter_context(ports.listen(gateway))
            holder = ports.reserve(gateway)
            if holder is not None:
                held.enter_context(holder)
            await self._until_told(listener)

    async def _until_told(self, listener: socket.socket) -> None:
        told = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, told)
        work = asyncio.create_task(self._work(listener))
        stop = asyncio.create_task(told.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work  # raises why the first workers cannot serve
        finally:
            for task in (work, stop, *self._leaving):
                task.cancel()
            await asyncio.wait({work, stop, *self._leaving})
            await self._end()

    def _on_signal(self, told: asyncio.Event) -> None:
        if told.is_set():  # the second one is impatient, and ends a worker at once
            for worker in self._alive:
                worker.signal(signal.SIGINT)
        told.set()

    async def _work(self, listener: socket.socket) -> None:
        good = seen = self._state()
        workers, at = await self._generation(listener, self._task.workers)
        self._announce(at)
        retry_at = 0.0
        while True:
            await asyncio.sleep(POLL_S)
            if self._state() != seen:
                seen = await self._settled()
                fresh = await self._reloaded(listener, changed(good, seen))
                if fresh:
                    self._retire(workers)
                    workers, good = fresh, seen
            dead = [worker for worker in workers if worker.exit_status is not None]
            if dead and monotonic() >= retry_at:
                retry_at = monotonic() + RETRY_S
                workers = await self._revived(listener, workers, dead)

    def _state(self) -> State:
        return {} if self._task.watch is None else self._task.watch.state()

    async def _settled(self) -> State:
        """How the files are once they have stopped changing."""
        before = self._state()
        while True:
            await asyncio.sleep(SETTLE_S)
            now = self._state()
            if now == before:
                return now
            before = now

    async def _reloaded(self, listener: socket.socket, paths: Sequence[Path]) -> Sequence[Worker]:
        """Workers of the source as it is now, serving; none where it has an error, or is as it was."""
        watch = self._task.watch
        if watch is None or not paths:
            return ()
        files = [watch.shown(path) for path in paths]
        started = monotonic()
        try:
            check_syntax(paths)
            workers, _ = await self._generation(listener, self._task.workers)
        except SpeechError as error:
            log_event("reload failed", message=error.message, kept=True, files=files)
            return ()
        pids = [worker.pid for worker in workers]
        log_event("reloaded", s=round(monotonic() - started, 3), files=files, pids=pids)
        return workers

    async def _revived(
        self, listener: socket.socket, workers: Sequence[Worker], dead: Sequence[Worker]
    ) -> Sequence[Worker]:
        """``workers`` with others for those that died, where that works."""
        statuses = [worker.exit_status for worker in dead]
        try:
            fresh, _ = await self._generation(listener, len(dead))
        except SpeechError as error:
            log_event("worker died", statuses=statuses, message=error.message)
            return workers
        log_event("worker died", statuses=statuses, pids=[worker.pid for worker in fresh])
        self._alive -= set(dead)
        return [*(worker for worker in workers if worker not in dead), *fresh]

    async def _generation(
        self, listener: socket.socket, count: int
    ) -> tuple[Sequence[Worker], ports.Addresses]:
        """``count`` new workers, serving.

        Raises:
            ServerStartError: one cannot serve; none of them is left.
        """
        task = self._task
        brief = Brief(
            config_file=task.config_file,
            overrides=task.overrides,
            verbosity=task.verbosity,
            url=task.url,
            workers=task.workers,
            secret=self._secret,
            listener=listener.fileno(),
            report=-1,
            host=task.gateway.host,
            http_port=task.gateway.http_port,
            grpc_port=task.gateway.grpc_port,
        )
        fresh: list[Worker] = []
        try:
            for _ in range(count):
                fresh.append(await Worker.start(brief))
            self._alive.update(fresh)
            at = [await worker.ready() for worker in fresh]
        except BaseException:
            for worker in fresh:
                worker.signal(signal.SIGKILL)
                await worker.ended()
            self._alive -= set(fresh)
            raise
        return fresh, at[0]

    def _retire(self, workers: Sequence[Worker]) -> None:
        for worker in workers:
            leaving = asyncio.create_task(self._left(worker))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _left(self, worker: Worker) -> None:
        worker.retire()
        try:
            async with asyncio.timeout(self._patience_s):
                await worker.ended()
        except TimeoutError:
            worker.signal(signal.SIGKILL)
            await worker.ended()
        self._alive.discard(worker)

    async def _end(self) -> None:
        for worker in self._alive:
            worker.signal(signal.SIGTERM)
        ends = [asyncio.create_task(worker.ended()) for worker in self._alive]
        if ends:
            _, late = await asyncio.wait(ends, timeout=self._patience_s)
            for worker in self._alive if late else ():
                worker.signal(signal.SIGKILL)
            await asyncio.wait(ends)

    @property
    def _patience_s(self) -> float:
        return self._task.gateway.drain_timeout_s + _ENDING_S


def log_event(event: str, **details: Any) -> None:
    """One line of JSON on standard error, as the workers write one a request."""
    sys.stderr.write(json.dumps({"event": event, **details}) + "\n")
    sys.stderr.flush()
