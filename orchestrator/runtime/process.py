"""Starting a tritonserver process, and ending one so that nothing of it stays.

A server is the leader of a session and a process group of its own: a terminal's Ctrl-C does not reach it,
and its Python models, one process each, can be found and ended with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import psutil

from orchestrator.errors import ServerStartError
from orchestrator.runtime.state import ServerState

SHM_FOLDER: Final = Path("/dev/shm")
_STUB_GRACE_S: Final = 5.0
"""A model's process looks about once a second whether its server still lives, and ends with it."""
_EXIT_GRACE_S: Final = 5.0
"""What the server gets to end by itself after its own time-out for requests in flight."""
_POLL_S: Final = 0.1

# Ties the server's life to the starter's: the kernel sends SIGTERM to it when the starter is killed.
_TIED: Final = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the starter has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


def spawn(
    command: Sequence[str], environment: Mapping[str, str], log: Path, *, detached: bool
) -> subprocess.Popen[bytes]:
    """Start ``command`` with its output in ``log``.

    Args:
        command: the argument vector.
        environment: the whole environment.
        log: the file to write to; created anew.
        detached: True lets the server outlive this process; False ends it when this process (exactly: the
            thread that calls) ends, however that happens.

    Raises:
        ServerStartError: the system does not start it.
    """
    arguments = list(command)
    if not detached:
        arguments = tied(arguments)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
    except OSError as error:
        raise ServerStartError(
            f"cannot start {command[0]}: {error.strerror}", path=log, fix="run `spark-speech doctor`"
        ) from error


def tied(command: Sequence[str]) -> list[str]:
    """The command as one that ends with this process (exactly: the thread that starts it), however that ends.

    Args:
        command: the argument vector; the program's path is absolute.
    """
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


def terminate(state: ServerState, grace_s: float) -> bool:
    """End the server and all that belongs to it: processes and shared memory.

    Args:
        state: the server; one that has ended already is only cleaned up after.
        grace_s: how long it may finish what it is doing before it is killed.

    Returns:
        Whether it had to be killed.
    """
    killed = False
    process = state.process()
    try:
        if process is not None:
            _signal(process, signal.SIGTERM)
            killed = not _wait(lambda: state.process() is None, grace_s + _EXIT_GRACE_S)
    finally:  # also when a second Ctrl-C cuts the wait short
        if process is not None:
            _signal(process, signal.SIGKILL)
            _wait(lambda: state.process() is None, _EXIT_GRACE_S)
        # The models' processes follow their server by themselves; those that do not are killed.
        if not _wait(lambda: not members(state), _STUB_GRACE_S):
            for member in members(state):
                _signal(member, signal.SIGKILL)
            _wait(lambda: not members(state), _EXIT_GRACE_S)
    remove_shared_memory(state)
    return killed


def members(state: ServerState) -> list[psutil.Process]:
    """The live processes of the server: itself and its models' processes."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.pid == state.pid or state.shm_prefix in " ".join(process.cmdline())
            if ours and os.getpgid(process.pid) == state.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


def shared_memory(state: ServerState) -> list[Path]:
    """The server's regions in /dev/shm."""
    return sorted(SHM_FOLDER.glob(f"{state.shm_prefix}*"))


def remove_shared_memory(state: ServerState) -> None:
    """Delete the server's regions in /dev/shm."""
    for region in shared_memory(state):
        region.unlink(missing_ok=True)


@contextmanager
def ending_on_termination() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an exception does, so that ``finally`` blocks run."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(done: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for ``done``; whether it came true in time.

    Not psutil's wait: that one waits for the process's entry to go, which a zombie without a caring parent
    (the first process of many containers is none) keeps for ever.
    """
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
