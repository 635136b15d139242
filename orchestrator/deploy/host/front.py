"""The front on a host: HAProxy, told through its runtime socket which slot takes new work.

Server states (HAProxy Management Guide, "set server ... state"): ``ready`` takes new work, ``drain`` only
what the stick table says belongs to it, ``maint`` nothing. What is set is saved to the server-state file,
which HAProxy reads when it starts. Formats: Management Guide, "show servers state", "show stat" and
"show table".
"""

from __future__ import annotations

import csv
import socket
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.state import SLOTS, other
from orchestrator.deploy.host.store import write_surely
from orchestrator.errors import FrontError

BACKENDS: Final = ("triton", "gateway", "riva")
TIMEOUT_S: Final = 5.0
UP_WAIT_S: Final = 30.0
"""How long a slot that is ready by itself may take to pass HAProxy's own checks."""
_POLL_S: Final = 0.1
_RUNNING: Final = 2
"""srv_op_state of a server that is fully up."""
_FORCED_MAINT: Final = 0x01
_FORCED_DRAIN: Final = 0x08
_MAINT: Final = 0x01 | 0x02 | 0x20
"""Bits of srv_admin_state; 0x04 only remembers that the configuration says ``disabled``."""
_DRAIN: Final = 0x08 | 0x10


@dataclass(frozen=True)
class Server:
    """One slot's server in one backend: ``admin`` is ``ready``, ``drain`` or ``maint``."""

    backend: str
    slot: str
    admin: str
    up: bool


class Front(Protocol):
    """What a rollout needs of the front."""

    def running(self) -> bool:
        """Whether it answers."""

    def servers(self) -> list[Server]:
        """The slots' servers in all backends."""

    def switch(self, slot: str) -> bool:
        """New work to ``slot``, the other one drains; whether anything changed."""

    def set_state(self, slot: str, admin: str) -> bool:
        """``ready``, ``drain`` or ``maint`` for a slot; whether anything changed."""

    def sessions(self, slot: str) -> int:
        """Requests and streams that the front has open to a slot."""

    def sequences(self, slot: str) -> int:
        """Live streams that were sent to a slot and may go on."""


class HaproxyFront:
    """`Front` through the runtime socket."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def running(self) -> bool:
        """Whether it answers."""
        try:
            self._ask("show info")
        except FrontError:
            return False
        return True

    def servers(self) -> list[Server]:
        """The slots' servers in all backends.

        Raises:
            FrontError: the front does not answer.
        """
        return parse_servers(self._ask("show servers state"))

    def switch(self, slot: str) -> bool:
        """New work to ``slot``, the other one drains; whether anything changed.

        HAProxy believes a server that leaves maintenance up until a check fails. So the slot is first set to
        drain, where it is checked and takes nothing new, and is made ready by a passed check; until then the
        other slot is left as it is. No request is turned away, and none is sent to a slot that nobody saw.

        Raises:
            FrontError: the front does not answer, lacks the slots, or does not see the slot up; then the
                other slot serves as before.
        """
        servers = self.servers()
        if not {(row.backend, row.slot) for row in servers} >= {("triton", each) for each in SLOTS}:
            raise FrontError(
                "the front has no servers blue and green in its backend triton",
                path=self._layout.front_socket,
                fix="install its configuration again: the role front",
            )
        changed = any(row.slot == slot and row.admin != "ready" for row in servers)
        if changed:
            self.set_state(slot, "drain")
        try:
            self._wait_up(slot)
        except FrontError:
            if changed:
                self.set_state(slot, "maint")
            raise
        self.set_state(slot, "ready")
        drained = any(row.slot == other(slot) and row.admin == "ready" for row in servers)
        if drained:
            self.set_state(other(slot), "drain")
        self.save()
        return changed or drained

    def set_state(self, slot: str, admin: str) -> bool:
        """``ready``, ``drain`` or ``maint`` for a slot in all backends; whether anything changed.

        Raises:
            FrontError: the front does not answer or refuses.
        """
        changed = False
        for row in self.servers():
            if row.slot == slot and row.admin != admin:
                self._tell(f"set server {row.backend}/{slot} state {admin}")
                changed = True
        if changed:
            self.save()
        return changed

    def save(self) -> None:
        """Keep the servers' states for HAProxy's next start."""
        write_surely(self._layout, self._layout.front_state, self._ask("show servers state").encode("utf-8"))

    def sessions(self, slot: str) -> int:
        """Requests and streams that the front has open to a slot, queued ones included."""
        return parse_sessions(self._ask("show stat"), slot)

    def sequences(self, slot: str) -> int:
        """Entries of the stick tables that bind a live stream to a slot; they stay until they expire."""
        found = 0
        for line in self._ask("show table").splitlines():
            if line.startswith("# table: "):
                name = line.removeprefix("# table: ").split(",")[0]
                found += parse_table(self._ask(f"show table {name}"), slot)
        return found

    def _wait_up(self, slot: str) -> None:
        deadline = time.monotonic() + UP_WAIT_S
        while down := unchecked(self._ask("show stat"), slot):
            if time.monotonic() > deadline:
                raise FrontError(
                    f"the front does not see slot {slot} up in {', '.join(down)} after {UP_WAIT_S:g} s",
                    path=self._layout.front_socket,
                    fix="look at the slot's log, and at the front's: journalctl -u spark-speech-front",
                )
            time.sleep(_POLL_S)

    def _tell(self, command: str) -> None:
        said = self._ask(command).strip()
        if said:
            raise FrontError(f"the front refused `{command}`: {said.splitlines()[0]}")

    def _ask(self, command: str) -> str:
        path = self._layout.front_socket
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TIMEOUT_S)
                connection.connect(str(path))
                connection.sendall(command.encode("ascii") + b"\n")
                chunks = []
                while chunk := connection.recv(1 << 16):
                    chunks.append(chunk)
        except OSError as error:
            raise FrontError(
                f"the front does not answer: {error.strerror or error}",
                path=path,
                fix="start it: systemctl start spark-speech-front",
            ) from error
        return b"".join(chunks).decode("utf-8", "replace")


def parse_servers(text: str) -> list[Server]:
    """The slots' servers in the answer to "show servers state"."""
    rows = _state_rows(text)
    return [
        Server(
            row["be_name"],
            row["srv_name"],
            _admin(int(row["srv_admin_state"])),
            int(row["srv_op_state"]) == _RUNNING,
        )
        for row in rows
        if row["be_name"] in BACKENDS and row["srv_name"] in SLOTS
    ]


def parse_sessions(text: str, slot: str) -> int:
    """Current sessions and queued requests of a slot in the answer to "show stat" (CSV)."""
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    return sum(
        int(row["scur"] or 0) + int(row["qcur"] or 0)
        for row in rows
        if row["pxname"] in BACKENDS and row["svname"] == slot
    )


def unchecked(text: str, slot: str) -> list[str]:
    """The backends whose last check of a slot did not pass, from the answer to "show stat" (CSV).

    A check that passes sets a server's ``check_health`` to ``check_rise + check_fall - 1``; one that has left
    maintenance and was not checked since has less (Management Guide, "Statistics and monitoring"). That holds
    from ``fall 2`` on, which the role front writes.
    """
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    return [
        row["pxname"]
        for row in rows
        if row["pxname"] in BACKENDS
        and row["svname"] == slot
        and int(row["check_health"] or 0) < int(row["check_rise"] or 1) + int(row["check_fall"] or 1) - 1
    ]


def parse_table(text: str, slot: str) -> int:
    """Entries that bind to a slot in the answer to "show table NAME"."""
    return sum(f"server_key={slot}" in line.split() for line in text.splitlines())


def switched_file(text: str, active: str | None) -> str:
    """A server-state file in which ``active`` is ready and the other slot is in maintenance.

    For a front that does not run: it starts with what the file says.
    """
    lines = text.splitlines()
    header = next((line for line in lines if line.startswith("# ")), "").split()[1:]
    if not header:
        return text
    backend, server, admin = (header.index(name) for name in ("be_name", "srv_name", "srv_admin_state"))
    for number, line in enumerate(lines):
        cells = line.split()
        if len(cells) > admin and cells[backend] in BACKENDS and cells[server] in SLOTS:
            kept = int(cells[admin]) & ~(_FORCED_MAINT | _FORCED_DRAIN)
            wanted = kept if cells[server] == active else kept | _FORCED_MAINT
            cells[admin] = str(wanted)
            lines[number] = " ".join(cells)
    return "\n".join(lines) + "\n"


def _state_rows(text: str) -> list[dict[str, str]]:
    lines = text.splitlines()
    header = next((line for line in lines if line.startswith("# ")), "").split()[1:]
    rows = (line.split() for line in lines if line and line[0] != "#")
    return [dict(zip(header, cells, strict=False)) for cells in rows if len(cells) >= len(header) > 1]


def _admin(bits: int) -> str:
    if bits & _MAINT:
        return "maint"
    return "drain" if bits & _DRAIN else "ready"


def to_dict(front: Front) -> dict[str, Any]:
    """The front as JSON-ready data; ``{"running": false}`` where it does not answer."""
    try:
        servers = front.servers()
        found: dict[str, dict[str, Any]] = {}
        for row in servers:
            found.setdefault(row.backend, {})[row.slot] = {"admin": row.admin, "up": row.up}
        return {
            "running": True,
            "backends": found,
            "sessions": {slot: front.sessions(slot) for slot in SLOTS},
            "sequences": {slot: front.sequences(slot) for slot in SLOTS},
        }
    except FrontError:
        return {"running": False}
