"""Writing that either happens or does not: atomic files, durable folders, locks, and errors with a fix."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from orchestrator.errors import DiskFullError, RepositoryError

CHUNK_BYTES: Final = 1 << 20
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_POLL_S: Final = 0.1


@contextmanager
def storage_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn what the operating system says about ``path`` into this project's errors.

    Raises:
        DiskFullError: no space, or over a quota.
        RepositoryError: anything else; ``doing`` says what failed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                "no space left while writing", path=path, fix="free some space there, or set paths.home"
            ) from error
        raise RepositoryError(
            f"cannot {doing}: {error.strerror or error}",
            path=path,
            fix="check that it is there and its permissions, or set paths.home",
        ) from error


def copy_stream(source: BinaryIO, sink: BinaryIO, on_chunk: Callable[[bytes], None] | None = None) -> None:
    """Copy all of ``source`` to ``sink``, telling ``on_chunk`` of each piece."""
    while chunk := source.read(CHUNK_BYTES):
        sink.write(chunk)
        if on_chunk is not None:
            on_chunk(chunk)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all.

    Raises:
        DiskFullError, RepositoryError: see `storage_errors`.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as sink:
                sink.write(data)
                sink.flush()
                os.fchmod(sink.fileno(), 0o644)
                os.fsync(sink.fileno())
            os.replace(name, path)  # noqa: PTH105 -- the name is mkstemp's
        finally:
            Path(name).unlink(missing_ok=True)
        sync_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """Delete ``folder`` and all in it; no error where it is not there."""
    with storage_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)


@contextmanager
def exclusive(
    path: Path,
    *,
    wait_s: float,
    on_wait: Callable[[], None] | None = None,
    holder: str = "another build",
) -> Iterator[None]:
    """Hold the lock file ``path``; the operating system lets go of it when the process dies.

    Args:
        path: the lock file; made where it is not there.
        wait_s: how long to wait for another process to let go of it.
        on_wait: called once when there is something to wait for.
        holder: who else may hold it, for the message.

    Raises:
        RepositoryError: another process held it for ``wait_s`` seconds.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _acquire(handle, path, wait_s, on_wait, holder)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, wait_s: float, on_wait: Callable[[], None] | None, holder: str) -> None:
    deadline = time.monotonic() + wait_s
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise RepositoryError(
                    f"{holder} has held the lock for {wait_s:g} s",
                    path=path,
                    fix="wait for it to end, or stop it",
                ) from None
            if not told and on_wait is not None:
                on_wait()
                told = True
            time.sleep(_POLL_S)
        else:
            return
