"""Which deployment has the host: one at a time, with an end, so that a dead controller does not keep it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.store import read_json, write_json
from orchestrator.errors import HostLockedError
from orchestrator.repository.storage import storage_errors


@dataclass(frozen=True)
class Lock:
    """A lock; times are seconds since the epoch.

    Attributes:
        owner: who, for people: user and machine.
        run: the controller's run.
        pid: the controller's process, on its own machine; 0 where it was not told.
        acquired: when it was taken.
        expires: from then on anybody may take it.
    """

    owner: str
    run: str
    pid: int
    acquired: float
    expires: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def acquired(held: Lock | None, wanted: Lock, *, force: bool = False) -> Lock:
    """The lock after ``wanted`` asked for it; pure.

    Raises:
        HostLockedError: another run has it.
    """
    refuse_other(None if force else held, wanted.run, wanted.acquired)
    if held is not None and held.run == wanted.run:
        return replace(wanted, acquired=held.acquired)
    return wanted


def refuse_other(held: Lock | None, run: str, now: float) -> None:
    """Let ``run`` pass, unless another one has the host.

    Raises:
        HostLockedError: names owner, process and expiry.
    """
    if held is None or held.run == run or held.expires <= now:
        return
    ends = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(held.expires))
    raise HostLockedError(
        f"{held.owner} (pid {held.pid}, run {held.run}) deploys to this host until {ends}",
        fix=f"wait for it, at most {held.expires - now:.0f} s; or acquire with --force if it is gone",
    )


class LockFile:
    """``lock.json``; the caller holds the store's guard."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.lock

    def read(self) -> Lock | None:
        """The lock, expired or not; None where there is none. A damaged file counts as none."""
        data = read_json(self._path)
        try:
            return None if data is None else Lock(**data)
        except TypeError:
            return None

    def write(self, lock: Lock) -> None:
        """Replace the lock."""
        write_json(self._path, lock.to_dict())

    def remove(self) -> None:
        """Give the host back."""
        with storage_errors(self._path):
            self._path.unlink(missing_ok=True)
