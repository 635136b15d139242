"""``state.json`` on disk: read whole, replaced whole, changed by one process at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from orchestrator.deploy.host import state as states
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.state import HostState
from orchestrator.errors import DiskFullError, HostStateError, RepositoryError
from orchestrator.repository.storage import exclusive, storage_errors, write_atomic

RESERVE_BYTES: Final = 1 << 20
GUARD_WAIT_S: Final = 900.0
"""A revert holds the guard while an old slot starts again, which takes minutes with large models."""


class StateStore:
    """The host's state below a home."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def read(self) -> HostState:
        """The state; an empty one where the host never served.

        Raises:
            HostStateError: it is damaged.
        """
        path = self._layout.state
        try:
            with storage_errors(path, "read"):
                text = path.read_text(encoding="utf-8") if path.exists() else ""
            return states.from_dict(json.loads(text)) if text else HostState()
        except (ValueError, HostStateError) as error:
            detail = error.message if isinstance(error, HostStateError) else f"no JSON: {error}"
            fix = "put a sound copy there, or remove the file and deploy again (the old slot is forgotten)"
            raise HostStateError(f"cannot use the host's state: {detail}", path=path, fix=fix) from error

    def write(self, state: HostState) -> None:
        """Replace the state; it is durable when this returns.

        Raises:
            DiskFullError, RepositoryError: it stays as it was.
        """
        write_surely(self._layout, self._layout.state, _as_json(state.to_dict()))

    def reserve(self) -> None:
        """Set space aside, so that the way back does not need any.

        Raises:
            DiskFullError, RepositoryError: there is none.
        """
        path = self._layout.reserve
        if not path.exists():
            write_atomic(path, b"\1" * RESERVE_BYTES)

    @contextmanager
    def guarded(self, *, check: bool = False, wait_s: float = GUARD_WAIT_S) -> Iterator[None]:
        """Keep other verbs out; a ``check`` only reads, and neither waits nor makes a file.

        Raises:
            RepositoryError: another one went on for ``wait_s`` seconds.
        """
        if check:
            yield
            return
        with exclusive(self._layout.guard, wait_s=wait_s, holder="another step on this host"):
            yield


def write_surely(layout: Layout, path: Path, data: bytes) -> None:
    """Replace a file, on a full disk with the space that `StateStore.reserve` set aside.

    Raises:
        DiskFullError, RepositoryError: it stays as it was.
    """
    try:
        write_atomic(path, data)
    except DiskFullError:
        if not layout.reserve.exists():
            raise
        with storage_errors(layout.reserve):
            layout.reserve.unlink()
        write_atomic(path, data)


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file, whole or not at all."""
    write_atomic(path, _as_json(data))


def read_json(path: Path) -> Any:
    """A JSON file's data; None where there is none or it is damaged."""
    try:
        with storage_errors(path, "read"):
            return json.loads(path.read_bytes()) if path.exists() else None
    except (ValueError, RepositoryError):
        return None


def _as_json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode("utf-8")
