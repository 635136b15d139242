"""Processes that a benchmark keeps for all its runs and talks to over pipes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

from orchestrator.errors import ServerUnavailableError, SpeechError

_FIX: Final = "use less load or fewer processes"
_END_S: Final = 5.0
"""A process that has not ended this long after its pipe was closed is killed."""


@contextmanager
def workers(count: int, serve: Callable[[Connection], None], name: str) -> Iterator[list[Connection]]:
    """A pipe to each of ``count`` processes that run ``serve`` until the block ends.

    Args:
        count: of processes.
        serve: a function of a module; it returns when its pipe reads the end of file.
        name: of the processes, with their numbers behind it.
    """
    # Not forked: gRPC's threads and CUDA do not live on in a fork.
    context = multiprocessing.get_context("spawn")
    running: list[Any] = []
    pipes: list[Connection] = []
    try:
        for number in range(count):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there,), name=f"{name}-{number}", daemon=True)
            process.start()
            there.close()
            running.append(process)
            pipes.append(here)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for process in running:
            process.join(_END_S)
            if process.is_alive():
                process.kill()
                process.join()


def tell(pipe: Connection, what: object) -> None:
    """Send ``what``.

    Raises:
        ServerUnavailableError: the process ended.
    """
    try:
        pipe.send(what)
    except OSError as error:
        raise _ended() from error


def answer(pipe: Connection, limit_s: float) -> Any:
    """What the process sends.

    Raises:
        ServerUnavailableError: it ended, or sent nothing in time.
        SpeechError: it sent one.
    """
    try:
        if not pipe.poll(limit_s):
            raise ServerUnavailableError(
                f"a client process did not answer within {limit_s:g} s",
                fix="use less load or fewer processes",
            )
        found = pipe.recv()
    except (EOFError, OSError) as error:
        raise _ended() from error
    if isinstance(found, SpeechError):
        raise found
    return found


def _ended() -> ServerUnavailableError:
    return ServerUnavailableError("a client process ended", fix=_FIX)
