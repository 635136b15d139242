"""One worker process, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Final, Self

from orchestrator.errors import ServerStartError
from orchestrator.gateway.ports import Addresses
from orchestrator.gateway.supervise.orders import RETIRE, Brief, Report

READY_LIMIT_S: Final = 60.0
"""For loading the server and connecting to Triton, on a busy machine."""


class Worker:
    """A process that serves; made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, report: int) -> None:
        self._process = process
        self._report = report

    @classmethod
    async def start(cls, brief: Brief) -> Self:
        """Start a process; ``brief.report`` is filled in.

        Raises:
            ServerStartError: the system refuses it.
        """
        ours, theirs = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-c",
                # The modules that this process has found, not those that the current folder may hold.
                f"import sys; sys.path[:] = {sys.path!r}; "
                "from orchestrator.gateway.supervise.worker import main; main()",
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(brief.listener, theirs),
                start_new_session=True,  # Ctrl-C is for the supervisor, which tells its workers
            )
        except OSError as error:
            os.close(ours)
            raise ServerStartError(f"no worker can be started: {error.strerror}") from error
        finally:
            os.close(theirs)
        worker = cls(process, ours)
        worker._order(brief.model_copy(update={"report": theirs}).model_dump_json().encode() + b"\n")
        return worker

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; a negative number is the signal that ended it."""
        return self._process.returncode

    async def ready(self) -> Addresses:
        """Wait until it serves.

        Raises:
            ServerStartError: it cannot, ended, or took too long.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._report, "rb")
        )
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                line = await reader.readline()
        except TimeoutError as error:
            raise ServerStartError(
                f"the new worker was not ready within {READY_LIMIT_S:g} s", fix="see its log."
            ) from error
        finally:
            pipe.close()
        if not line:
            raise ServerStartError("the new worker ended before it was ready", fix="its log says why.")
        report = Report.model_validate_json(line)
        if report.addresses is None:
            told = report.error or {}
            raise ServerStartError(str(told.get("message")), fix=told.get("fix"), path=told.get("path"))
        return report.addresses

    def retire(self) -> None:
        """Let it finish what it has, and end."""
        self._order(RETIRE)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; its exit status."""
        return await self._process.wait()

    def _order(self, order: bytes) -> None:
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(order)  # into the pipe at once: it is small
