"""This machine's own runs over hosts: which go on, and which died and left their locks on the hosts.

A host's lock keeps other runs out until it expires. Those that this machine knows to be dead, because their
process is, need not be waited for.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.repository.storage import storage_errors

_SUFFIX: Final = ".run"
_KEPT_S: Final = 2 * 86_400.0
"""Longer than any lock on a host holds: what is older need not be known."""


@dataclass(slots=True)
class OwnRun:
    """A run of this process.

    Attributes:
        run: its id.
        dead: earlier runs of this machine whose locks may still be on hosts.
        clean: whether no lock of this run can be left on a host; set when it ends.
        settled: likewise of the dead ones.
    """

    run: str
    dead: tuple[str, ...] = ()
    clean: bool = False
    settled: bool = False


@contextmanager
def registered(home: Path, run: str) -> Iterator[OwnRun]:
    """Keep a note of the run while the block runs, and after it unless the block says that it is clean.

    Raises:
        DiskFullError, RepositoryError: the note cannot be written.
    """
    folder = home / "deploy" / "runs"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        dead = tuple(path.stem for path in _dead(folder))
        fresh = folder / f".{run}"
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        fresh.rename(folder / f"{run}{_SUFFIX}")  # from here on others see it, and see that it is held
    own = OwnRun(run, dead)
    try:
        yield own
    finally:
        os.close(handle)  # the system does this too when the process is killed
        for name in ((run,) if own.clean else ()) + (dead if own.settled else ()):
            (folder / f"{name}{_SUFFIX}").unlink(missing_ok=True)


def _dead(folder: Path) -> list[Path]:
    """The notes of runs whose process has ended; those of long ago are deleted."""
    found = []
    for note in sorted(folder.glob(f"*{_SUFFIX}")):
        with suppress(OSError):  # held by a live run, or gone meanwhile
            handle = os.open(note, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                age_s = time.time() - os.fstat(handle).st_mtime
            finally:
                os.close(handle)
            if age_s > _KEPT_S:
                note.unlink(missing_ok=True)
            else:
                found.append(note)
    return found
