"""Temporary files of a server: a folder of its own, gone with it.

The server and its models get it as TMPDIR. Triton's Python backend alone keeps to ``/tmp``: it makes an empty
``python_env_*`` folder there when it starts, and deletes it when it ends, but not when it is killed.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from orchestrator.repository.storage import storage_errors
from orchestrator.runtime.state import SAME_START_S, ServerState

BACKEND_PARENT: Final = Path("/tmp")
_PREFIX: Final = "tmp-"
_BACKEND_START_S: Final = 60.0
"""A server has started its Python backend by then: that comes before any model is loaded."""
_SERVER_NAME: Final = "tritonserver"


def folder_of(home: Path, shm_prefix: str) -> Path:
    """The folder of the server that was started from ``home`` with this prefix."""
    return home / "run" / f"{_PREFIX}{shm_prefix.strip('_')}"


def create(home: Path, shm_prefix: str) -> Path:
    """Make the folder, and delete those of earlier servers: a home runs one at a time.

    Raises:
        DiskFullError, RepositoryError: it cannot be made.
    """
    folder = folder_of(home, shm_prefix)
    for old in folder.parent.glob(f"{_PREFIX}*"):
        shutil.rmtree(old, ignore_errors=True)
    with storage_errors(folder):
        folder.mkdir(parents=True)
    return folder


def remove(home: Path, state: ServerState) -> None:
    """Delete what a server that has ended left, here and in ``/tmp``; nothing there is no error."""
    shutil.rmtree(folder_of(home, state.shm_prefix), ignore_errors=True)
    for folder in backend_folders(state):
        with suppress(OSError):  # not empty, or gone meanwhile
            folder.rmdir()


def backend_folders(state: ServerState, parent: Path | None = None) -> list[Path]:
    """The folders in ``parent`` (``/tmp``) that the server's Python backend made.

    Only their time tells whose they are, so one that a live server may have made too is left out.
    """
    starts = _starts_of_live_servers(other_than=state.pid)
    found = []
    for folder in sorted((parent or BACKEND_PARENT).glob("python_env_*")):
        try:
            status = folder.lstat()
        except OSError:
            continue
        if status.st_uid != os.getuid() or not _made_by(state.created, status.st_mtime):
            continue
        if not any(_made_by(start, status.st_mtime) for start in starts):
            found.append(folder)
    return found


def _made_by(server_start: float, made: float) -> bool:
    return server_start - SAME_START_S <= made <= server_start + _BACKEND_START_S


def _starts_of_live_servers(other_than: int) -> list[float]:
    """When each tritonserver here was created, in seconds since the epoch."""
    return [
        process.info["create_time"]
        for process in psutil.process_iter(["name", "create_time"])
        if process.info["name"] == _SERVER_NAME
        and process.info["create_time"] is not None
        and process.pid != other_than
    ]
